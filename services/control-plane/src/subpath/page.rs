use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use memchr::memmem::Finder;

/// How the links of a page change: each that begins with the service gets the base in front, unless it has that already.
#[derive(Debug)]
pub struct Rewriting {
    service: Finder<'static>,
    base: usize,
    /// Base and service.
    whole: Vec<u8>,
    /// Not decided yet, and before that what has gone already, as much as a base is long.
    held: BytesMut,
    gone: usize,
    /// What comes behind what is held: trailers.
    after: Option<Frame<Bytes>>,
    ended: bool,
}

impl Rewriting {
    pub fn new(base: &str, service: &str) -> Self {
        Self {
            service: Finder::new(service.as_bytes()).into_owned(),
            base: base.len(),
            whole: [base, service].concat().into_bytes(),
            held: BytesMut::new(),
            gone: 0,
            after: None,
            ended: false,
        }
    }

    /// What can go of what has come; at the end all of it.
    fn decided(&mut self) -> Bytes {
        let Self { service, base, whole, held, gone, ended, .. } = self;
        let base_bytes = whole.get(..*base).unwrap_or_default();
        let mut out = Vec::with_capacity(held.len());
        loop {
            let rest = held.get(*gone..).unwrap_or_default();
            let Some(before) = service.find(rest) else {
                let stays = if *ended { 0 } else { begun(rest, service.needle()) };
                let goes = rest.len() - stays;
                out.extend_from_slice(rest.get(..goes).unwrap_or_default());
                *gone += goes;
                break;
            };
            out.extend_from_slice(rest.get(..before).unwrap_or_default());
            *gone += before;
            let behind = rest.get(before + service.needle().len()..).unwrap_or_default();
            if !*ended && behind.len() < whole.len() && whole.starts_with(behind) {
                break;
            }
            // An app that knows where it is, and the API server has put the service in front once more.
            let twice = behind.starts_with(whole);
            let has_base = held.get(..*gone).unwrap_or_default().ends_with(base_bytes);
            out.extend_from_slice(if twice || !has_base { whole } else { service.needle() });
            *gone += service.needle().len() + if twice { whole.len() } else { 0 };
        }
        let _old = held.split_to(gone.saturating_sub(*base));
        *gone = (*gone).min(*base);
        out.into()
    }
}

/// How much of the end of `text` may be the beginning of `needle`.
fn begun(text: &[u8], needle: &[u8]) -> usize {
    let most = text.len().min(needle.len() - 1);
    (1..=most).rev().find(|length| text.ends_with(needle.get(..*length).unwrap_or_default())).unwrap_or(0)
}

/// A body that is a page to be corrected, or anything else.
#[derive(Debug)]
pub struct Page<B> {
    body: B,
    rewriting: Option<Box<Rewriting>>,
}

impl<B> Page<B> {
    pub fn new(body: B, rewriting: Option<Rewriting>) -> Self {
        Self { body, rewriting: rewriting.map(Box::new) }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Page<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        let Some(rewriting) = &mut this.rewriting else { return Pin::new(&mut this.body).poll_frame(cx) };
        while !rewriting.ended {
            match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => rewriting.held.extend_from_slice(&data),
                    Err(trailers) => {
                        rewriting.after = Some(trailers);
                        rewriting.ended = true;
                    }
                },
                None => rewriting.ended = true,
            }
            let decided = rewriting.decided();
            if !decided.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(decided))));
            }
        }
        Poll::Ready(rewriting.after.take().map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        match &self.rewriting {
            None => self.body.is_end_stream(),
            Some(rewriting) => rewriting.ended && rewriting.after.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.rewriting {
            None => self.body.size_hint(),
            Some(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, StreamBody};
    use proptest::prelude::*;

    use super::*;

    const BASE: &str = "/base/proxy";
    const SERVICE: &str = "/ns/web/proxy";

    fn through(page: &str, step: usize) -> String {
        let mut rewriting = Rewriting::new(BASE, SERVICE);
        let mut out = Vec::new();
        for piece in page.as_bytes().chunks(step.max(1)) {
            rewriting.held.extend_from_slice(piece);
            out.extend_from_slice(&rewriting.decided());
            assert!(rewriting.held.len() < 2 * (BASE.len() + SERVICE.len()) + piece.len(), "it holds the page");
        }
        rewriting.ended = true;
        out.extend_from_slice(&rewriting.decided());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn links_get_the_base_wherever_a_page_is_cut() {
        let page = format!(
            "<a href=\"{SERVICE}/a\"><a href='{BASE}{SERVICE}/b'><script src=\"{SERVICE}{BASE}{SERVICE}/c\">\
             {SERVICE}{SERVICE}{BASE}/x {SERVICE}{BASE}/ns/web /ns/web/prox{SERVICE}"
        );
        let right = format!(
            "<a href=\"{BASE}{SERVICE}/a\"><a href='{BASE}{SERVICE}/b'><script src=\"{BASE}{SERVICE}/c\">\
             {BASE}{SERVICE}{BASE}{SERVICE}{BASE}/x {BASE}{SERVICE}{BASE}/ns/web /ns/web/prox{BASE}{SERVICE}"
        );
        for step in 1..=page.len() {
            assert_eq!(through(&page, step), right, "in steps of {step}");
        }
    }

    #[test]
    fn what_is_no_link_goes_at_once() {
        let mut rewriting = Rewriting::new(BASE, SERVICE);
        rewriting.held.extend_from_slice(b"<p>one");
        assert_eq!(&rewriting.decided()[..], b"<p>one");
        rewriting.held.extend_from_slice(b"two /ns");
        assert_eq!(&rewriting.decided()[..], b"two ");
    }

    #[tokio::test]
    async fn a_body_ends_as_it_did() {
        let frames = || {
            let trailers = http::HeaderMap::from_iter([(http::header::ETAG, http::HeaderValue::from_static("x"))]);
            let frames =
                [Frame::data(Bytes::from("a /ns/web")), Frame::data(Bytes::from("/proxy")), Frame::trailers(trailers)];
            StreamBody::new(futures::stream::iter(frames.map(Ok::<_, std::convert::Infallible>)))
        };
        for (rewriting, text) in
            [(None, "a /ns/web/proxy"), (Some(Rewriting::new(BASE, SERVICE)), "a /base/proxy/ns/web/proxy")]
        {
            let whole = Page::new(frames(), rewriting).collect().await.unwrap();
            assert_eq!(whole.trailers().map(http::HeaderMap::len), Some(1));
            assert_eq!(whole.to_bytes(), text);
        }
    }

    proptest! {
        #[test]
        fn cuts_make_no_difference(parts in prop::collection::vec(prop::sample::select(vec![BASE, SERVICE, "/ns", "/base", "x", "/"]), 0..12), step in 1_usize..9) {
            let page = parts.concat();
            prop_assert_eq!(through(&page, step), through(&page, page.len().max(1)));
        }
    }
}
