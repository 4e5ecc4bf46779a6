use std::process::Command;

use crate::peers::Files;

/// What the process says and how it ends, with this environment alone.
fn gateway_link(args: &[&str], environment: &[(&str, &str)]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gateway-link"));
    command.args(args).env_clear().envs(environment.iter().copied()).env("PIPEOPS_SERVER_LISTEN", "127.0.0.1:0");
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

#[test]
fn settings_that_cannot_be_used_end_the_process_with_the_reason() {
    let files = Files::new();
    let damaged = files.write("ca.pem", "nothing of use");
    for (name, value, said) in [
        ("PIPEOPS_TLS_CA_FILE", damaged.to_str().unwrap(), "ca.pem"),
        ("PIPEOPS_TLS_CERT_FILE", "/tls.crt", "pipeops.tls.key_file go together"),
        ("PIPEOPS_TLS_PINS", "sha256/short", "is no pin: expected"),
        ("https_proxy", "socks5://ana:hunter2@proxy", "pipeops.https_proxy is"),
        ("HTTPS_PROXY", "http://ana:hunter2@:x", "pipeops.https_proxy is"),
    ] {
        let (success, text) = gateway_link(&[], &[("PIPEOPS_TOKEN", "t"), (name, value)]);
        assert!(!success && text.contains(said), "{name}: {text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn conventional_names_are_read_and_a_proxys_url_is_masked() {
    let environment = [
        ("HTTPS_PROXY", "http://ana:hunter2@proxy:3128"),
        ("no_proxy", "[::1],.example.com"),
        ("PIPEOPS_TLS_PINS", "sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="),
    ];
    let (success, text) = gateway_link(&["--print-config"], &environment);
    assert!(success && text.contains("https_proxy: '***'") || text.contains("https_proxy: \"***\""), "{text}");
    assert!(text.contains("[::1],.example.com") && text.contains("sha256/47DEQpj8HBSa+/"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn leave_not_to_verify_is_warned_of_at_the_start() {
    let files = Files::new();
    let damaged = files.write("tls.crt", "nothing of use");
    let damaged = damaged.to_str().unwrap();
    let environment = [
        ("PIPEOPS_TLS_INSECURE_SKIP_VERIFY", "true"),
        ("PIPEOPS_TLS_CERT_FILE", damaged),
        ("PIPEOPS_TLS_KEY_FILE", damaged),
    ];
    let (_, text) = gateway_link(&[], &environment);
    assert!(text.contains("\"WARN\"") && text.contains("TLS CERTIFICATES ARE NOT VERIFIED"), "{text}");
}
