use super::*;
use proptest::prelude::*;

fn fields(lines: &[&str]) -> HeaderMap {
    lines.iter().map(|line| (SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_str(line).unwrap())).collect()
}

#[test]
fn the_first_offer_that_can_be_kept_is_accepted() {
    let both = "permessage-deflate; client_no_context_takeover; server_no_context_takeover";
    let with_window =
        "permessage-deflate; client_no_context_takeover; server_no_context_takeover; server_max_window_bits=15";
    for (lines, answer) in [
        (&[both][..], Some(both)),
        (&["permessage-deflate"], Some(both)),
        (&["PerMessage-Deflate;Server_No_Context_Takeover"], Some(both)),
        // As browsers do.
        (&["permessage-deflate; client_max_window_bits"], Some(both)),
        (&["permessage-deflate; client_max_window_bits=10"], Some(both)),
        (&["permessage-deflate;client_max_window_bits=\"1\\0\""], Some(both)),
        (&["permessage-deflate; server_max_window_bits=15"], Some(with_window)),
        (&["permessage-deflate; server_max_window_bits = \"15\" ; client_max_window_bits"], Some(with_window)),
        (&["permessage-deflate; server_max_window_bits=10, permessage-deflate"], Some(both)),
        (&["x-webkit-deflate-frame, , permessage-bzip2; level=\"9\"", "permessage-deflate"], Some(both)),
        (&[], None),
        (&[""], None),
        (&["permessage-bzip2"], None),
        (&["permessage-deflate; server_max_window_bits=14"], None),
        (&["permessage-deflate; server_max_window_bits"], None),
        (&["permessage-deflate; server_max_window_bits=015"], None),
        (&["permessage-deflate; server_no_context_takeover=1"], None),
        (&["permessage-deflate; server_no_context_takeover; server_no_context_takeover"], None),
        (&["permessage-deflate; client_max_window_bits=7"], None),
        (&["permessage-deflate; client_max_window_bits=16"], None),
        (&["permessage-deflate; unknown"], None),
        (&["permessage-deflate;"], None),
        (&["permessage-deflate server_no_context_takeover"], None),
        (&["permessage-deflate; client_max_window_bits=\"10"], None),
        (&["permessage-deflate; client_max_window_bits=\"1 0\""], None),
        (&["permessage-deflate; client_max_window_bits="], None),
        // One line that cannot be read spoils the others: whose fault that is nobody knows.
        (&["permessage-deflate", "=;"], None),
    ] {
        let accepted = accept(&fields(lines));
        assert_eq!(accepted.as_ref().map(|value| value.to_str().unwrap()), answer, "{lines:?}");
    }
}

#[test]
fn an_answer_keeps_to_the_offer_or_is_refused_with_the_reason() {
    let deflate = |rest: &str| format!("permessage-deflate; server_no_context_takeover{rest}");
    for (lines, outcome) in [
        (vec![], Ok(false)),
        (vec![String::new()], Ok(false)),
        (vec![deflate("")], Ok(true)),
        (vec![deflate("; client_no_context_takeover")], Ok(true)),
        (vec![deflate("; server_max_window_bits=12")], Ok(true)),
        (vec![deflate("; server_max_window_bits=16")], Err("it has a parameter that there is not")),
        (vec![deflate("; server_max_window_bits")], Err("it has a parameter that there is not")),
        (vec![deflate("; client_max_window_bits=15")], Err("client_max_window_bits was not offered")),
        (vec![deflate("; client_no_context_takeover=1")], Err("it has a parameter that there is not")),
        (vec![deflate("; unknown")], Err("it has a parameter that there is not")),
        (vec![deflate("; server_no_context_takeover")], Err("a parameter is in it twice")),
        (vec![deflate(""), deflate("")], Err("permessage-deflate alone was offered")),
        (vec!["permessage-bzip2".to_owned()], Err("permessage-deflate alone was offered")),
        (vec!["permessage-deflate".to_owned()], Err("it lacks server_no_context_takeover, which was asked for")),
        (vec!["permessage-deflate; =".to_owned()], Err("it cannot be read")),
    ] {
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let fields = fields(&lines);
        assert_eq!(accepted(&fields, true).map_err(|bad| bad.why), outcome, "{lines:?}");
        let unasked = accepted(&fields, false);
        match outcome {
            Ok(false) => assert_eq!(unasked, Ok(false)),
            _ => assert!(unasked.is_err(), "{lines:?}"),
        }
    }
    let bad = accepted(&fields(&["permessage-bzip2", "x"]), true).unwrap_err();
    assert_eq!(bad.to_string(), "permessage-deflate alone was offered: \"permessage-bzip2, x\"");
}

proptest! {
    #[test]
    fn what_is_answered_is_accepted_and_nothing_panics(
        lines in prop::collection::vec(
            prop::collection::vec(
                prop::sample::select(vec![
                    "permessage-deflate", ";", ",", "=", "\"", "\\", " ", "15", "8", "x",
                    "client_no_context_takeover", "server_no_context_takeover", "client_max_window_bits", "server_max_window_bits",
                ]),
                0..12,
            ),
            0..3,
        ),
    ) {
        let lines: Vec<String> = lines.iter().map(|words| words.concat()).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let _ours = accepted(&fields(&lines), true);
        if let Some(answer) = accept(&fields(&lines)) {
            prop_assert_eq!(accepted(&fields(&[answer.to_str().unwrap()]), true), Ok(true));
        }
    }
}
