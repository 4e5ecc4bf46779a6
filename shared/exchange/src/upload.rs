use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};

use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project_lite::pin_project;

pin_project! {
    /// A request body that tells when it has been sent or given up.
    pub struct Upload<B> {
        #[pin]
        body: B,
        going_on: GoingOn,
    }
}

/// True until dropped, where somebody looks.
struct GoingOn(Option<Arc<AtomicBool>>);

impl<B> Upload<B> {
    pub fn new(body: B, going_on: Option<Arc<AtomicBool>>) -> Self {
        Self { body, going_on: GoingOn(going_on) }
    }

    pub fn into_inner(self) -> B {
        self.body
    }
}

impl Drop for GoingOn {
    fn drop(&mut self) {
        if let Some(going_on) = &self.0 {
            going_on.store(false, Relaxed);
        }
    }
}

impl<B: HttpBody> HttpBody for Upload<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.project().body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
