use proptest::prelude::*;

use super::*;
use crate::encode;

/// Header lines: proper ones, those that say something of the body, and those that are none.
fn header_line() -> impl Strategy<Value = String> {
    let proper = prop::sample::select(vec![
        "x-y: z",
        "x:",
        "x: \u{e9}",
        "Accept:  */* ",
        "connection: close",
        "upgrade: SPDY/3.1",
        "content-length: 3",
        "Content-Length: 03",
        "content-length: 4",
        "content-length: +3",
        "transfer-encoding: chunked",
        "Transfer-Encoding: gzip, chunked",
        "transfer-encoding:\tCHUNKED",
        "Host:b",
    ]);
    let odd = prop::sample::select(vec![
        "x-y : z",
        "x y: z",
        " folded",
        "no colon",
        ": empty",
        "x: \0",
        "x: \u{7f}",
        "x: a\rb",
    ]);
    prop_oneof![9 => proper, 1 => odd].prop_map(str::to_owned)
}

fn head() -> impl Strategy<Value = Vec<u8>> {
    let method = prop::sample::select(vec!["GET", "POST", "HEAD", "PURGE", "get", "G(T", ""]);
    let target = prop::sample::select(vec![
        "/",
        "/api/v1/pods?watch=1",
        "*",
        "http://host/path?q",
        "/%2e%2e/",
        "//x",
        "/a#b",
        "a b",
        "/\u{e9}",
        "",
    ]);
    let version = prop::sample::select(vec!["HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "http/1.1"]);
    let ends = prop::sample::select(vec!["\r\n", "\n"]);
    let lines = prop::collection::vec(header_line(), 0..5);
    (method, target, version, any::<bool>(), lines, ends).prop_map(|(method, target, version, host, lines, end)| {
        let host = if host { format!("host: a{end}") } else { String::new() };
        let lines: String = lines.into_iter().map(|line| line + end).collect();
        format!("{method} {target} {version}{end}{host}{lines}{end}").into_bytes()
    })
}

/// The head that is found, and what is left after it.
fn found(pieces: &[&[u8]]) -> Result<Option<(Bytes, Bytes)>, Malformed> {
    let mut reader = HeadReader::new(120);
    for (i, piece) in pieces.iter().enumerate() {
        let mut input = Bytes::copy_from_slice(piece);
        if let Some(head) = reader.take(&mut input)? {
            return Ok(Some((head, [&input[..], &pieces[i + 1..].concat()].concat().into())));
        }
    }
    Ok(None)
}

proptest! {
    #[test]
    fn a_head_is_the_same_however_it_is_cut(head in head(), at in prop::collection::vec(any::<prop::sample::Index>(), 0..6)) {
        let wire = [&head[..], b"rest"].concat();
        let mut at: Vec<usize> = at.iter().map(|at| at.index(wire.len())).chain([0, wire.len()]).collect();
        at.sort_unstable();
        let pieces: Vec<&[u8]> = at.windows(2).map(|pair| &wire[pair[0]..pair[1]]).collect();
        prop_assert_eq!(found(&pieces), found(&[&wire]));
    }

    /// What one hop takes the next must read alike, or a request could be hidden in another.
    #[test]
    fn what_is_passed_on_is_read_alike(head in head()) {
        let head = Bytes::from(head);
        let Ok(request) = parse_request(&head) else { return Ok(()) };
        let (Ok(body), Ok(())) = (request_body(&request), check_host(&request)) else { return Ok(()) };
        let length = match body {
            Decoder::Done => Some(0),
            _ => content_length(request.headers()).unwrap(),
        };
        let mut passed_on = BytesMut::new();
        encode::request(&request, length, &mut passed_on).unwrap();
        let passed_on = passed_on.freeze();
        prop_assert_eq!(end_of_head(&passed_on, 0), Some(passed_on.len()));
        let again = parse_request(&passed_on).unwrap();
        prop_assert_eq!(again.method(), request.method());
        prop_assert_eq!(again.uri().path_and_query().map(|target| target.as_str()), Some(
            request.uri().path_and_query().map_or("/", |target| target.as_str())
        ));
        prop_assert_eq!(format!("{:?}", request_body(&again).unwrap()), format!("{body:?}"));
        let of = |request: &Request<()>| {
            let mut headers = request.headers().clone();
            headers.remove(header::CONTENT_LENGTH);
            headers.remove(header::TRANSFER_ENCODING);
            headers
        };
        prop_assert_eq!(of(&again), of(&request));
    }
}
