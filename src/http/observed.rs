//! Watches requests begin and answers end, for the deadlines of their connection.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use actix_http::{ConnectionType, Payload, Request, Response};
use actix_web::body::{BodySize, MessageBody};
use actix_web::dev::{Service, ServiceResponse, forward_ready};
use actix_web::error::PayloadError;
use actix_web::web::Bytes;
use futures_core::Stream;
use pin_project_lite::pin_project;

use super::connection::Connection;
use super::excess::Excess;

/// A service of requests, each reported to the connection it came by.
pub(super) struct Observed<S> {
    pub(super) requests: S,
}

impl<S, B> Service<Request> for Observed<S>
where
    S: Service<Request, Response = ServiceResponse<B>>,
    B: MessageBody,
{
    type Response = Response<ObservedBody<B>>;
    type Error = S::Error;
    type Future = Handling<S::Future>;

    forward_ready!(requests);

    fn call(&self, mut request: Request) -> Self::Future {
        let turn = request.conn_data::<Rc<Connection>>().cloned().map(|connection| {
            let has_body = !matches!(request.payload(), Payload::None);
            connection.begin(has_body);
            if has_body {
                let incoming = Incoming { payload: request.take_payload(), connection: Rc::clone(&connection) };
                *request.payload() = Payload::Stream { payload: Box::pin(incoming) };
            }
            Turn(connection)
        });
        Handling { work: self.requests.call(request), turn }
    }
}

/// A request that is worked on, until its answer is complete or nobody waits for it any more.
struct Turn(Rc<Connection>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.end();
    }
}

pin_project! {
    /// Work on a request.
    pub(super) struct Handling<F> {
        #[pin]
        work: F,
        turn: Option<Turn>,
    }
}

impl<F, B, E> Future for Handling<F>
where
    F: Future<Output = Result<ServiceResponse<B>, E>>,
{
    type Output = Result<Response<ObservedBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.work.poll(cx));
        let turn = this.turn.take();
        Poll::Ready(result.map(|response| {
            let mut response: Response<B> = response.into();
            // What follows a body that nobody read cannot be told from it.
            if turn.as_ref().is_some_and(|Turn(connection)| connection.has_unread_body()) {
                response.head_mut().set_connection_type(ConnectionType::Close);
            }
            response.map_body(|_, body| ObservedBody { body, _turn: turn })
        }))
    }
}

pin_project! {
    /// An answer's body. The answer is complete when it is dropped.
    pub(super) struct ObservedBody<B> {
        #[pin]
        body: B,
        _turn: Option<Turn>,
    }
}

impl<B: MessageBody> MessageBody for ObservedBody<B> {
    type Error = B::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        self.project().body.poll_next(cx)
    }
}

/// A request's body as it arrives: it ends with an error where the connection does not wait for more of it.
struct Incoming {
    payload: Payload,
    connection: Rc<Connection>,
}

impl Stream for Incoming {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.connection.body_excess() {
            None => {}
            Some(Excess::Slow) => {
                let error = std::io::Error::new(std::io::ErrorKind::TimedOut, Excess::Slow.to_string());
                return Poll::Ready(Some(Err(PayloadError::Io(error))));
            }
            Some(_) => return Poll::Ready(Some(Err(PayloadError::Overflow))),
        }
        let next = ready!(Pin::new(&mut self.payload).poll_next(cx));
        if next.is_none() {
            self.connection.complete_body();
        }
        Poll::Ready(next)
    }
}
