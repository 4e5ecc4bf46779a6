//! Web apps behind Ingresses, as their visitors see them.

use crate::prepare::{self, SOON};
use anyhow::{Context, Result, ensure};
use lab::{Lab, until};
use reqwest::{Certificate, Client, StatusCode, redirect::Policy};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use serde_json::json;
use std::sync::Arc;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

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

/// A web server that shows what `make` makes in its folder, and its Service.
async fn site(lab: &Lab, namespace: &str, make: &str) -> Result<()> {
    let serve = format!("mkdir /tmp/www && cd /tmp/www && {make} && exec httpd -f -p 8080 -h /tmp/www");
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "labels": {"app": "web"}}, "spec": {"containers": [{
        "name": "web", "image": "lab.local/tools:1", "args": ["sh", "-c", serve],
        "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1}}]}});
    prepare::create(lab, namespace, "pod/web", &pod.to_string()).await?;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}});
    lab.admin().stdout_with_input(&["create", "-n", namespace, "-f", "-"], &service.to_string()).await?;
    Ok(())
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
    site(&lab, namespace, "echo welcome > index.html").await?;
    let kubectl = async |args: &[&str], input: &str| {
        lab.admin().stdout_with_input(&[args, &["-n", namespace, "-f", "-"]].concat(), input).await
    };
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

pub async fn a_page_behind_the_api_server_leads_where_it_is(lab: Arc<Lab>) -> Result<()> {
    let namespace = "pages";
    lab.create_namespace(namespace).await?;
    // A page with a link, which gives a cookie and leads back.
    let make = r#"echo '<a href="/cgi-bin/enter">in</a>' > index.html && mkdir cgi-bin && printf '#!/bin/sh\necho Status: 302 Found; echo Location: /; echo "Set-Cookie: a=b; Path=/"; echo\n' > cgi-bin/enter && chmod +x cgi-bin/enter"#;
    site(&lab, namespace, make).await?;
    let ca = Certificate::from_pem(lab.ca_pem()?.as_bytes())?;
    let browser = Client::builder().add_root_certificate(ca).redirect(Policy::none()).no_proxy().build()?;
    let origin = lab.url()?;
    let whole = format!(
        "{}/api/v1/namespaces/{namespace}/services/web:http/proxy",
        lab.proxy_url()?.trim_start_matches(origin)
    );
    let get = async |path: &str, token: &str| -> Result<reqwest::Response> {
        let request =
            browser.get(format!("{origin}{path}")).header("accept", "text/html").basic_auth("any", Some(token));
        Ok(request.send().await?)
    };
    let asked = browser.get(format!("{origin}{whole}/")).header("accept", "text/html").send().await?;
    let asks = asked.headers().get("www-authenticate").context("it does not ask who comes")?.to_str()?;
    ensure!(asked.status() == StatusCode::UNAUTHORIZED && asks.starts_with("Basic "), "{} {asks}", asked.status());
    let token = lab.user_token()?;
    let page = until("the page", SOON, || async {
        anyhow::Ok(get(&format!("{whole}/"), token).await?.error_for_status()?.text().await?)
    })
    .await?;
    let link = page.split('"').nth(1).with_context(|| format!("no link in {page}"))?;
    ensure!(link == format!("{whole}/cgi-bin/enter"), "{link}");
    let entered = get(link, token).await?;
    let header = |name: &str| entered.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    ensure!(entered.status() == StatusCode::FOUND && header("location") == format!("{whole}/"), "{entered:?}");
    ensure!(header("set-cookie") == format!("a=b; Path={whole}/"), "{entered:?}");
    // What the browser remembers is good for pages alone.
    let api = get(&format!("{}/api/v1/namespaces", lab.proxy_url()?.trim_start_matches(origin)), token).await?;
    ensure!(api.status() == StatusCode::UNAUTHORIZED, "{}", api.status());
    Ok(())
}

pub async fn tls_is_passed_through_to_its_service(lab: Arc<Lab>) -> Result<()> {
    // The name that the certificate is for.
    const NAME: &str = "localhost";
    let namespace = "passed";
    lab.create_namespace(namespace).await?;
    let folder = tempfile::tempdir()?;
    let authority = lab::Certificates::create(folder.path())?;
    let own = authority.issue("service")?;
    let pem = [own.cert_file, own.key_file].map(std::fs::read_to_string).into_iter().collect::<Result<String, _>>()?;
    let listen = "printf %s \"$PEM\" > /tmp/pem && exec socat OPENSSL-LISTEN:8443,fork,reuseaddr,cert=/tmp/pem,verify=0 EXEC:cat";
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "labels": {"app": "web"}}, "spec": {"containers": [{
        "name": "web", "image": "lab.local/tools:1", "args": ["sh", "-c", listen], "env": [{"name": "PEM", "value": pem}],
        "readinessProbe": {"tcpSocket": {"port": 8443}, "periodSeconds": 1}}]}});
    prepare::create(&lab, namespace, "pod/web", &pod.to_string()).await?;
    let objects = json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
         "spec": {"selector": {"app": "web"}, "ports": [{"port": 443, "targetPort": 8443}]}},
        {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
         "metadata": {"name": "web", "labels": {"pipeops.io/managed": "true"}, "annotations": {"pipeops.io/tls-passthrough": "true"}},
         "spec": {"rules": [{"host": NAME, "http": {"paths": [{"path": "/", "pathType": "Prefix",
            "backend": {"service": {"name": "web", "port": {"number": 443}}}}]}}]}}]});
    lab.admin().stdout_with_input(&["create", "-n", namespace, "-f", "-"], &objects.to_string()).await?;

    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority.ca_file())?)?;
    let trust = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(trust));
    let [_, https] = lab.web()?;
    until("the Service's own certificate", SOON, || async {
        let mut tls = connector.connect(NAME.try_into()?, TcpStream::connect(https).await?).await?;
        tls.write_all(b"hello").await?;
        let mut back = [0; 5];
        tls.read_exact(&mut back).await?;
        ensure!(&back == b"hello", "{back:?}");
        anyhow::Ok(())
    })
    .await
}
