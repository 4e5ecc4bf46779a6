use std::{collections::BTreeMap, ffi::OsString, io::Write as _, path::Path};

use protocol::Secret;
use schemars::JsonSchema;
use serde::Deserialize;

use super::*;
use crate::{ByteSize, Common, Duration, SecretSchema};

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
struct Example {
    #[serde(flatten)]
    common: Common,
    /// A section.
    gateway: Gateway,
    sizes: BTreeMap<String, ByteSize>,
    upstreams: Vec<Upstream>,
    tls: Option<Tls>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
struct Gateway {
    /// Where to dial.
    url: String,
    #[schemars(with = "Option<SecretSchema>")]
    token: Option<Secret>,
    #[schemars(with = "Option<SecretSchema>")]
    password: Option<Secret>,
    names: Vec<String>,
    retries: Option<u16>,
    mode: Mode,
    verify: bool,
    wait: Duration,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    /// Documented, so that the schema lists it as `oneOf`.
    #[default]
    ReadOnly,
    /// The whole.
    Full,
}

#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
struct Tls {
    ca_file: Option<PathBuf>,
}

#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
struct Upstream {
    host: String,
}

impl Default for Example {
    fn default() -> Self {
        let gateway = Gateway {
            url: "http://outer".to_owned(),
            verify: true,
            wait: Duration::from_secs(5),
            names: vec!["a".to_owned()],
            ..Gateway::default()
        };
        Self { common: Common::default(), gateway, sizes: BTreeMap::new(), upstreams: Vec::new(), tls: None }
    }
}

impl Default for Gateway {
    fn default() -> Self {
        Self {
            url: "http://inner".to_owned(),
            token: None,
            password: Some(Secret::new("built in")),
            names: Vec::new(),
            retries: None,
            mode: Mode::default(),
            verify: false,
            wait: Duration::default(),
        }
    }
}

impl Options for Example {
    const ENV: &'static [(&'static str, &'static str)] = &[("PIPEOPS_TOKEN", "gateway.token")];

    fn common(&self) -> &Common {
        &self.common
    }
}

fn load_example(file: Option<&str>, environment: &[(&str, &str)], set: &[&str]) -> Result<Example, ConfigError> {
    let mut yaml = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    yaml.write_all(file.unwrap_or_default().as_bytes()).unwrap();
    let args = Args {
        config: file.map(|_| yaml.path().to_owned()),
        set: set.iter().map(|&text| text.to_owned()).collect(),
        ..Args::default()
    };
    load_with(&args, |name| environment.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value)))
}

fn refusal(file: Option<&str>, environment: &[(&str, &str)], set: &[&str]) -> String {
    format!("{:#}", anyhow::Error::from(load_example(file, environment, set).unwrap_err()))
}

#[test]
fn nothing_given_leaves_the_defaults_of_the_outermost_struct() {
    let example = load_example(None, &[], &[]).unwrap();
    assert_eq!(example.gateway.url, "http://outer");
    assert_eq!(example.gateway.wait, Duration::from_secs(5));
    assert_eq!(example.common.worker_threads, 1);
}

#[test]
fn a_section_in_the_file_keeps_the_outer_defaults_of_its_other_keys() {
    let example = load_example(Some("gateway:\n  retries: 3\n"), &[], &[]).unwrap();
    assert_eq!((example.gateway.retries, example.gateway.verify), (Some(3), true));
    assert_eq!(example.gateway.url, "http://outer");
}

#[test]
fn each_layer_beats_the_one_before() {
    let file = Some("gateway:\n  url: file\n  retries: 1\n  verify: false\n  mode: full\n");
    let environment = [("PIPEOPS_GATEWAY_URL", "environment"), ("PIPEOPS_GATEWAY_RETRIES", "2")];
    let example = load_example(file, &environment, &["gateway.url=flag", "gateway.url=last flag"]).unwrap();
    assert_eq!(example.gateway.url, "last flag");
    assert_eq!(example.gateway.retries, Some(2));
    assert_eq!((example.gateway.verify, example.gateway.mode), (false, Mode::Full));
}

#[test]
fn the_environment_is_read_by_the_type_of_the_key() {
    let environment = [
        ("PIPEOPS_GATEWAY_NAMES", "x, y"),
        ("PIPEOPS_GATEWAY_VERIFY", "false"),
        ("PIPEOPS_GATEWAY_URL", "12"),
        ("PIPEOPS_GATEWAY_MODE", "full"),
        ("PIPEOPS_SIZES", "{small: 1KiB}"),
        ("PIPEOPS_UPSTREAMS", "[{host: one}]"),
        ("PIPEOPS_TELEMETRY_SAMPLE_RATIO", "0.25"),
        ("PIPEOPS_SHUTDOWN_TIMEOUT", "1m"),
        ("PIPEOPS_TLS_CA_FILE", "/ca.pem"),
        ("PIPEOPS_LOG_LEVEL", "debug"),
    ];
    let example = load_example(None, &environment, &["sizes.big=1GiB"]).unwrap();
    assert_eq!(example.gateway.names, ["x", "y"]);
    assert_eq!((example.gateway.verify, example.gateway.mode), (false, Mode::Full));
    assert_eq!(example.gateway.url, "12");
    assert_eq!(example.sizes.get("small"), Some(&ByteSize::kib(1)));
    assert_eq!(example.sizes.get("big"), Some(&ByteSize::mib(1024)));
    assert_eq!(example.upstreams.first().map(|u| u.host.as_str()), Some("one"));
    assert!((example.common.telemetry.sample_ratio - 0.25).abs() < f64::EPSILON);
    assert_eq!(example.common.shutdown_timeout, Duration::from_secs(60));
    assert_eq!(example.tls.unwrap().ca_file.as_deref(), Some(Path::new("/ca.pem")));
    assert_eq!(example.common.logging.level, "debug");
}

#[test]
fn a_keys_own_variable_beats_its_alias_and_an_empty_one_is_not_set() {
    let token = |environment: &[_]| load_example(None, environment, &[]).unwrap().gateway.token;
    let expose = |token: Option<Secret>| token.map(|t| t.expose().to_owned());
    assert_eq!(expose(token(&[("PIPEOPS_TOKEN", "alias")])).as_deref(), Some("alias"));
    let both = [("PIPEOPS_GATEWAY_TOKEN", "own"), ("PIPEOPS_TOKEN", "alias")];
    assert_eq!(expose(token(&both)).as_deref(), Some("own"));
    assert_eq!(expose(token(&[("PIPEOPS_TOKEN", "")])), None);
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_known_one() {
    for (file, wrong, near) in [
        ("gateway: {ulr: x}", "gateway.ulr", "gateway.url"),
        ("gatway: {url: x}", "gatway", "gateway.url"),
        ("otlp_endpoint: x", "otlp_endpoint", "telemetry.otlp_endpoint"),
        ("server: {lisen: x}", "server.lisen", "server.listen"),
        ("shutdown-timeout: 3s", "shutdown-timeout", "shutdown_timeout"),
        ("tls: {cafile: x}", "tls.cafile", "tls.ca_file"),
    ] {
        let message = refusal(Some(file), &[], &[]);
        assert!(message.contains(&format!("unknown key {wrong:?}")), "{message}");
        assert!(message.contains(&format!("did you mean {near:?}?")), "{message}");
    }
    let message = refusal(None, &[], &["gateway.urls=x"]);
    assert!(message.contains("the command line; did you mean \"gateway.url\"?"), "{message}");
    let message = refusal(Some("zzzzqqqq: 1"), &[], &[]);
    assert!(!message.contains("did you mean"), "nothing is near: {message}");
}

#[test]
fn a_value_that_does_not_fit_is_blamed_on_its_key_and_its_place() {
    let message = refusal(Some("gateway: {retries: many}"), &[("PIPEOPS_GATEWAY_VERIFY", "true")], &[]);
    assert!(message.contains("\"gateway.retries\"") && message.contains(".yaml"), "{message}");
    let message = refusal(None, &[("PIPEOPS_GATEWAY_WAIT", "5")], &[]);
    assert!(message.contains("\"gateway.wait\"") && message.contains("PIPEOPS_GATEWAY_WAIT"), "{message}");
    assert!(message.contains("no unit"), "{message}");
    let message = refusal(None, &[], &["gateway.retries=70000"]);
    assert!(message.contains("\"gateway.retries\" in the command line"), "{message}");
}

#[test]
fn a_bad_secret_is_refused_without_its_value() {
    let message = refusal(Some("gateway: {token: 123456}"), &[], &[]);
    assert!(message.contains("\"gateway.token\""), "{message}");
    assert!(!message.contains("123456"), "{message}");
    let message = refusal(None, &[], &["PASSWORD"]);
    assert!(message.contains("KEY=VALUE"), "{message}");
}

#[test]
fn a_file_that_is_no_table_of_settings_is_refused() {
    assert!(refusal(Some("- a\n- b\n"), &[], &[]).contains("a list"));
    assert!(refusal(Some("gateway: {url: [\n"), &[], &[]).contains("not valid YAML"));
    assert!(load_example(Some("# only a comment\n\n"), &[], &[]).is_ok());
    assert!(load_example(Some("gateway:\n"), &[], &[]).is_ok());
    assert!(load_example(Some("{}"), &[], &[]).is_ok());
    let args = Args { config: Some("/does/not/exist.yaml".into()), ..Args::default() };
    let message = format!("{:#}", anyhow::Error::from(load_with::<Example>(&args, |_| None).unwrap_err()));
    assert!(message.contains("/does/not/exist.yaml") && message.contains("No such file"), "{message}");
}

#[test]
fn a_masked_default_never_becomes_the_secret() {
    let example = load_example(None, &[], &[]).unwrap();
    assert_eq!(example.gateway.password.map(|p| p.expose().to_owned()).as_deref(), Some("built in"));
}

#[test]
fn what_print_config_shows_reads_back_as_the_same_configuration() {
    let example = load_example(None, &[], &["gateway.url=http://x", "sizes.a=3MiB", "gateway.retries=7"]).unwrap();
    let text = print(&example).unwrap();
    assert!(text.contains("***") && !text.contains("built in"), "{text}");
    let shown: String = text.split_inclusive('\n').filter(|line| !line.contains("***")).collect();
    assert_eq!(print(&load_example(Some(&shown), &[], &[]).unwrap()).unwrap(), text);
    // With the mask still in it, the mask would become the password.
    let message = refusal(Some(&text), &[], &[]);
    assert!(message.contains("\"gateway.password\"") && message.contains("in place of a secret"), "{message}");
}

#[test]
fn help_lists_every_key_with_its_names_default_and_choices() {
    let help = settings_help::<Example>();
    for part in [
        "  gateway.url\n      Where to dial.\n      [env: PIPEOPS_GATEWAY_URL] [default: http://outer]\n",
        "      One of: read-only, full\n",
        "[env: PIPEOPS_GATEWAY_TOKEN, PIPEOPS_TOKEN] [default: none]",
        "[env: PIPEOPS_LOGGING_LEVEL, PIPEOPS_LOG_LEVEL] [default: info]",
        "  tls.ca_file\n",
        "[env: PIPEOPS_GATEWAY_PASSWORD] [default: ***]",
    ] {
        assert!(help.contains(part), "{part:?} is not in\n{help}");
    }
}
