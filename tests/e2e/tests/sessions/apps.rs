//! Web apps behind Ingresses, as their visitors see them.

use crate::prepare::{self, SOON};
use anyhow::{Context, Result, ensure};
use lab::{Lab, until};
use reqwest::{Certificate, Client, StatusCode, redirect::Policy};
use std::sync::Arc;

const HOST: &str = "shop.apps.test";

/// Finds the control plane under the app's name.
fn visitor(lab: &Lab) -> Result<Client> {
    let [http, https] = lab.web()?;
    let ca = Certificate::from_pem(lab.ca_pem()?.as_bytes())?;
    // The port of the URL counts, the address is that of both.
    ensure!(http.ip() == https.ip(), "{http} and {https}");
    let client = Client::builder().resolve(HOST, http).add_root_certificate(ca).redirect(Policy::none()).no_proxy();
    Ok(client.build()?)
}

fn ingress(tls: bool) -> String {
    let tls = if tls { format!(r#""tls":[{{"hosts":["{HOST}"]}}],"#) } else { String::new() };
    format!(
        r#"{{"apiVersion":"networking.k8s.io/v1","kind":"Ingress","metadata":{{"name":"shop","labels":{{"pipeops.io/managed":"true"}}}},
        "spec":{{{tls}"rules":[{{"host":"{HOST}","http":{{"paths":[{{"path":"/","pathType":"Prefix",
        "backend":{{"service":{{"name":"web","port":{{"name":"http"}}}}}}}}]}}}}]}}}}"#
    )
}

pub async fn an_ingress_is_a_web_app_for_as_long_as_it_is_there(lab: Arc<Lab>) -> Result<()> {
    let namespace = "apps";
    lab.create_namespace(namespace).await?;
    let pod = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web","labels":{"app":"web"}},"spec":{"containers":[{"name":"web",
        "image":"lab.local/tools:1","args":["sh","-c","mkdir /tmp/www && echo welcome > /tmp/www/index.html && httpd -f -p 8080 -h /tmp/www"],
        "readinessProbe":{"tcpSocket":{"port":8080},"periodSeconds":1}}]}}"#;
    prepare::create(&lab, namespace, "pod/web", pod).await?;
    let service = r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"web"},"spec":{"selector":{"app":"web"},
        "ports":[{"name":"http","port":80,"targetPort":8080}]}}"#;
    let kubectl = async |args: &[&str], input: &str| {
        lab.admin().stdout_with_input(&[args, &["-n", namespace, "-f", "-"]].concat(), input).await
    };
    kubectl(&["create"], service).await?;
    let client = visitor(&lab)?;
    let [http, https] = lab.web()?.map(|address| address.port());
    let (plain, secure) = (format!("http://{HOST}:{http}/"), format!("https://{HOST}:{https}/"));
    let unknown = client.get(&plain).send().await?;
    ensure!(unknown.status() == StatusCode::NOT_FOUND, "{unknown:?}");

    kubectl(&["create"], &ingress(false)).await?;
    let shown = async |url: &str| {
        until("the app", SOON, || async {
            let text = client.get(url).send().await?.error_for_status()?.text().await?;
            ensure!(text == "welcome\n", "{text:?}");
            Ok(())
        })
        .await
    };
    shown(&plain).await?;
    shown(&secure).await?;
    let described = until("the Ingress to say where it is", SOON, || async {
        let described = lab.admin().stdout(&["describe", "ingress", "shop", "-n", namespace]).await?;
        ensure!(described.contains("RoutePublished") && described.contains(&plain), "{described}");
        anyhow::Ok(described)
    });
    described.await?;

    kubectl(&["replace"], &ingress(true)).await?;
    until("a redirect to HTTPS", SOON, || async {
        let answer = client.get(&plain).send().await?;
        let to = answer.headers().get("location").context("no location")?.to_str()?.to_owned();
        ensure!(answer.status() == StatusCode::PERMANENT_REDIRECT && to == secure, "{} {to}", answer.status());
        Ok(())
    })
    .await?;
    shown(&secure).await?;

    lab.admin().stdout(&["delete", "ingress", "shop", "-n", namespace]).await?;
    until("the app to be gone", SOON, || async {
        let status = client.get(&plain).send().await?.status();
        ensure!(status == StatusCode::NOT_FOUND, "{status}");
        Ok(())
    })
    .await
}
