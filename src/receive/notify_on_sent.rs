//! An answer's body that tells when it has been taken for sending.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, MessageBody};
use actix_web::web::Bytes;

/// Bytes, and what to do once the connection has taken all of them.
///
/// That says no more than that there was a connection to give it to. The caller may have hung up all the same, or a
/// proxy may have swallowed the answer.
pub(super) struct NotifyOnSent<F> {
    bytes: Option<Bytes>,
    length: u64,
    taken: Option<F>,
}

impl<F> NotifyOnSent<F> {
    pub(super) fn new(bytes: Vec<u8>, taken: F) -> Self {
        Self { length: bytes.len() as u64, bytes: Some(bytes.into()), taken: Some(taken) }
    }
}

impl<F: FnOnce() + Unpin> MessageBody for NotifyOnSent<F> {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.length)
    }

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Infallible>>> {
        if let Some(bytes) = self.bytes.take() {
            return Poll::Ready(Some(Ok(bytes)));
        }
        if let Some(taken) = self.taken.take() {
            taken();
        }
        Poll::Ready(None)
    }
}
