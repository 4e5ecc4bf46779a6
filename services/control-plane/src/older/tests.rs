use std::task::{Context, Waker};

use futures::future::poll_fn;
use http::{HeaderMap, StatusCode};
use proptest::prelude::*;
use protocol::message::proxied::{Opcode, WholeBody};

use super::exchange::{Exchange, Given, Head, Said};
use super::*;

const LIMIT: usize = 10_000;

fn head() -> Said {
    Said::Head(Head { status: StatusCode::OK, headers: HeaderMap::new() })
}

fn whole() -> Said {
    let head = Head { status: StatusCode::OK, headers: HeaderMap::new() };
    Said::Whole(head, WholeBody::Plain("whole".into()))
}

fn data(bytes: usize) -> Said {
    Said::Data(vec![0; bytes].into())
}

fn message() -> Said {
    Said::Message(Opcode::Binary, "message".into())
}

#[test]
fn only_what_makes_sense_is_taken() {
    type Make = fn() -> Said;
    let cases: [(Kind, &[Make], bool); 13] = [
        (Kind::Request, &[head, || data(1), || Said::End], true),
        (Kind::Request, &[whole], true),
        (Kind::Request, &[head, || Said::End], true),
        (Kind::Request, &[|| data(1)], false),
        (Kind::Request, &[|| Said::End], false),
        (Kind::Request, &[head, head], false),
        (Kind::Request, &[head, whole], false),
        (Kind::Request, &[head, message], false),
        (Kind::Request, &[message], false),
        (Kind::Socket, &[message, message, || Said::End], true),
        (Kind::Socket, &[|| Said::End], true),
        (Kind::Socket, &[head], false),
        (Kind::Socket, &[message, || data(1)], false),
    ];
    for (kind, said, makes_sense) in cases {
        let budget = Budget::limited(LIMIT);
        let exchange = Exchange::new("id".into(), kind);
        let mut given = Given::Taken;
        for make in said {
            given = exchange.give(make(), LIMIT, &budget);
        }
        assert_eq!(given, Given::Over { cancel: !makes_sense }, "{kind:?} {:?}", said.len());
        for late in [head(), data(1), message(), Said::End, Said::Broken(Broken::LinkLost)] {
            assert_eq!(exchange.give(late, LIMIT, &budget), Given::Late);
        }
        drop(exchange);
        assert_eq!(budget.used(), 0);
    }
}

#[test]
fn what_one_does_not_read_breaks_that_one_alone() {
    let budget = Budget::limited(2 * LIMIT);
    let slow = Exchange::new("slow".into(), Kind::Request);
    let other = Exchange::new("other".into(), Kind::Request);
    for exchange in [&slow, &other] {
        assert_eq!(exchange.give(head(), LIMIT, &budget), Given::Taken);
        assert_eq!(exchange.give(data(6000), LIMIT, &budget), Given::Taken);
    }
    assert_eq!(slow.give(data(6000), LIMIT, &budget), Given::Cut { cancel: true });
    assert!(budget.used() < 7000, "what is cut is kept");
    assert_eq!(other.give(data(1000), LIMIT, &budget), Given::Taken);
    // A message above the limit is taken by one that has nothing waiting, for it came as one.
    let large = Exchange::new("large".into(), Kind::Request);
    assert_eq!(large.give(head(), LIMIT, &budget), Given::Taken);
    assert_eq!(large.give(data(LIMIT + 1), LIMIT, &budget), Given::Taken);
    // All together have a limit as well. Of a whole answer the agent has no more to say.
    let answer = Exchange::new("answer".into(), Kind::Request);
    let head = Head { status: StatusCode::OK, headers: HeaderMap::new() };
    let whole = Said::Whole(head, WholeBody::Plain(vec![0; 4000].into()));
    assert_eq!(answer.give(whole, LIMIT, &budget), Given::Cut { cancel: false });
    assert_eq!(other.give(data(2500), LIMIT, &budget), Given::Cut { cancel: true });
    drop((slow, other, large));
    assert_eq!(budget.used(), 0);
}

#[test]
fn however_many_do_not_read_others_find_room() {
    let budget = Budget::limited(1_000_000);
    let slow: Vec<_> = (0..50).map(|_| Exchange::new("slow".into(), Kind::Request)).collect();
    for exchange in &slow {
        exchange.give(head(), 1_000_000, &budget);
    }
    for _ in 0..50 {
        for exchange in &slow {
            exchange.give(data(4000), 1_000_000, &budget);
        }
    }
    let left = 1_000_000 - budget.used();
    assert!(left >= 1_000_000 / 51, "{left} bytes left");
    let next = Exchange::new("next".into(), Kind::Request);
    assert_eq!(next.give(head(), LIMIT, &budget), Given::Taken);
    assert_eq!(next.give(data(8000), LIMIT, &budget), Given::Taken);
}

#[tokio::test]
async fn the_table_tells_of_those_that_nobody_waits_for_and_has_no_place_for_more() {
    let table = Table::new(2, LIMIT, &Budget::limited(LIMIT), &Arc::default());
    let (first, second) = (table.begin(Kind::Request).unwrap(), table.begin(Kind::Socket).unwrap());
    assert!(first.id.len() == 32 && first.id != second.id);
    assert!(table.begin(Kind::Request).unwrap_err().to_string().contains("maximum of 2 requests"));
    table.cancel(&first);
    table.cancel(&first);
    assert!(!table.give(&first.id, head()), "nobody waits for it");
    table.begin(Kind::Request).unwrap_err();
    assert_eq!(table.cancelled().await, Some((first.id.clone(), Kind::Request)));
    let third = table.begin(Kind::Request).unwrap();
    let mut next = std::pin::pin!(table.cancelled());
    assert!(next.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    assert!(table.give(&third.id, data(1)), "it makes no sense, and is somebody's");
    assert_eq!(next.await, Some((third.id.clone(), Kind::Request)));
    table.end();
    assert_eq!(table.cancelled().await, None);
    assert!(table.begin(Kind::Request).unwrap_err().to_string().contains("was lost") && table.is_idle());
    let said = poll_fn(|cx| second.poll(cx)).await.0;
    assert!(matches!(said, Said::Broken(Broken::LinkLost)), "{said:?}");
}

#[tokio::test]
async fn a_reader_is_woken_by_what_comes() {
    let budget = Budget::limited(LIMIT);
    let exchange = Exchange::new("id".into(), Kind::Request);
    let read = Arc::clone(&exchange);
    let reading = tokio::spawn(async move { poll_fn(|cx| read.poll(cx)).await.0 });
    tokio::task::yield_now().await;
    exchange.give(head(), LIMIT, &budget);
    assert!(matches!(reading.await.unwrap(), Said::Head(_)));
}

/// A link that nobody drives, and a request on it.
async fn undriven() -> (OlderLink, Arc<Budget>) {
    let (near, _far) = tokio::io::duplex(1024);
    let socket = tokio_tungstenite::WebSocketStream::from_raw_socket(
        mux::Timed::new(near),
        tokio_tungstenite::tungstenite::protocol::Role::Server,
        None,
    );
    let (link, ..) = mux::start(socket.await, mux::Role::ControlPlane, mux::Config::default());
    let budget = Budget::limited(100_000);
    (OlderLink::new(link, None, &budget, &Arc::default(), &options::Links::default()), budget)
}

/// What an agent may say, sensible or not, of an exchange whose id is put in for `ID`.
fn any_message() -> impl Strategy<Value = String> {
    let kind = prop::sample::select(vec![
        "proxy_response",
        "proxy_response_header",
        "proxy_response_start",
        "proxy_response_chunk",
        "proxy_response_end",
        "proxy_response_abort",
        "proxy_error",
        "proxy_websocket_data",
        "proxy_websocket_close",
        "backpressure",
        "tcp_tunnel_data",
        "udp_tunnel_data",
    ]);
    let field = prop::sample::select(vec![
        r#""status":200"#,
        r#""status":101"#,
        r#""status":-1"#,
        r#""headers":{"A":["b"]}"#,
        r#""headers":{"a b":"c"}"#,
        r#""headers":7"#,
        r#""body":"aGk=","encoding":"base64""#,
        r#""body":"%","encoding":"gzip""#,
        r#""body":"plain""#,
        r#""data":"AWhp""#,
        r#""data":"CAPo""#,
        r#""data":"%""#,
        r#""data":"""#,
        r#""stream_id":"ID""#,
        r#""stream_id":"other""#,
        r#""error":"why""#,
        r#""request_id":"ID""#,
    ]);
    (kind, prop::collection::vec(field, 0..4), any::<bool>()).prop_map(|(kind, fields, named)| {
        let id = if named { "ID" } else { "" };
        format!(r#"{{"type":"{kind}","request_id":"{id}","payload":{{{}}}}}"#, fields.join(","))
    })
}

proptest! {
    #[test]
    fn nothing_that_an_agent_says_breaks_more_than_what_it_is_of(
        messages in prop::collection::vec(any_message(), 0..12),
        frames in prop::collection::vec(any::<Vec<u8>>(), 0..4),
        is_socket: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let (older, budget) = undriven().await;
            let kind = if is_socket { Kind::Socket } else { Kind::Request };
            let (ticket, other) = (older.shared.begin(kind).unwrap(), older.shared.begin(kind).unwrap());
            for text in messages {
                let text = text.replace("ID", ticket.id());
                match protocol::AgentMessage::parse(&text) {
                    Ok((id, protocol::AgentMessage::Proxy(reply))) => older.reply(id.as_ref(), reply),
                    Ok(other) => panic!("{other:?}"),
                    Err(error) => {
                        let told = older.malformed(&text, &error);
                        prop_assert_eq!(told, text.contains(&format!(r#""request_id":"{}","payload"#, ticket.id())) && !text.contains("_tunnel_"));
                    }
                }
            }
            for frame in frames {
                older.binary(&frame.into());
            }
            // The other has got nothing of all that.
            prop_assert!(other.exchange.poll(&mut Context::from_waker(Waker::noop())).is_pending());
            drop((ticket, other));
            prop_assert_eq!(budget.used(), 0);
            Ok(())
        })?;
    }
}
