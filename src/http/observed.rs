//! Watches requests begin and answers end, for the deadlines of their connection.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use actix_http::{ConnectionType, Payload, Request, Response};
use actix_web::body::{BodySize, MessageBody};
use actix_web::dev::{Service, ServiceResponse, forward_ready};
use actix_web::error::PayloadError;
use actix_web::http::{StatusCode, Uri};
use actix_web::web::Bytes;
use futures_core::Stream;
use pin_project_lite::pin_project;

use super::connection::Connection;
use super::limits::LimitExceeded;

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
        let connection = request.conn_data::<Rc<Connection>>().cloned();
        if let Some(connection) = connection.as_ref().filter(|connection| connection.is_over()) {
            return Handling::Refused { connection: Rc::clone(connection) };
        }
        // `OPTIONS *` and `CONNECT` name no path, and routers know nothing but paths.
        if !request.path().starts_with('/') {
            request.head_mut().uri = Uri::from_static("/");
        }
        // An upgrade that is asked for is not taken, and ends the connection like `close`.
        let closes = request.head().connection_type() != ConnectionType::KeepAlive;
        let guard = connection.map(|connection| {
            let has_body = !matches!(request.payload(), Payload::None);
            connection.begin(has_body);
            if has_body {
                let incoming = Incoming { payload: request.take_payload(), connection: Rc::clone(&connection) };
                *request.payload() = Payload::Stream { payload: Box::pin(incoming) };
            }
            RequestGuard(connection)
        });
        Handling::Worked { work: self.requests.call(request), guard, closes }
    }
}

/// Lets a request that asks whether to send its body do so, unless an answer before it was the last.
pub(super) async fn expect(request: Request) -> Result<Request, actix_web::Error> {
    let connection = request.conn_data::<Rc<Connection>>().cloned();
    if let Some(connection) = connection.filter(|connection| connection.is_over()) {
        poll_fn(|_| connection.poll_muted()).await;
    }
    Ok(request)
}

/// A request that is worked on, until its answer is complete or nobody waits for it any more.
struct RequestGuard(Rc<Connection>);

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.end();
    }
}

pin_project! {
    /// What becomes of a request.
    #[project = HandlingProjection]
    pub(super) enum Handling<F> {
        /// It is worked on.
        Worked {
            #[pin]
            work: F,
            guard: Option<RequestGuard>,
            closes: bool,
        },
        /// It came behind the one whose answer closes the connection.
        Refused { connection: Rc<Connection> },
    }
}

impl<F, B, E> Future for Handling<F>
where
    F: Future<Output = Result<ServiceResponse<B>, E>>,
{
    type Output = Result<Response<ObservedBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (work, guard, closes) = match self.project() {
            HandlingProjection::Worked { work, guard, closes } => (work, guard, *closes),
            HandlingProjection::Refused { connection } => {
                ready!(connection.poll_muted());
                // Nobody gets to read it.
                let mut nothing = Response::with_body(StatusCode::OK, ObservedBody { body: None, _turn: None });
                nothing.head_mut().set_connection_type(ConnectionType::Close);
                return Poll::Ready(Ok(nothing));
            }
        };
        let result = ready!(work.poll(cx));
        let guard = guard.take();
        Poll::Ready(result.map(|response| {
            let mut response: Response<B> = response.into();
            // Heads come from a pool, and what one does to its connection depends on the version that it served last.
            response.head_mut().version = actix_http::Version::HTTP_11;
            // What follows a body that nobody read cannot be told from it.
            let is_unread = guard.as_ref().is_some_and(|RequestGuard(connection)| connection.has_unread_body());
            if closes || is_unread || response.head().connection_type() == ConnectionType::Close {
                response.head_mut().set_connection_type(ConnectionType::Close);
                if let Some(RequestGuard(connection)) = &guard {
                    connection.closes();
                }
            }
            response.map_body(|_, body| ObservedBody { body: Some(body), _turn: guard })
        }))
    }
}

pin_project! {
    /// An answer's body. The answer is complete when it is dropped.
    pub(super) struct ObservedBody<B> {
        #[pin]
        body: Option<B>,
        _turn: Option<RequestGuard>,
    }
}

impl<B: MessageBody> MessageBody for ObservedBody<B> {
    type Error = B::Error;

    fn size(&self) -> BodySize {
        self.body.as_ref().map_or(BodySize::Sized(0), MessageBody::size)
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        self.project().body.as_pin_mut().map_or(Poll::Ready(None), |body| body.poll_next(cx))
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
        match self.connection.body_limit_exceeded() {
            None => {}
            Some(LimitExceeded::Slow) => {
                let error = std::io::Error::new(std::io::ErrorKind::TimedOut, LimitExceeded::Slow.to_string());
                return Poll::Ready(Some(Err(PayloadError::Io(error))));
            }
            Some(_) => return Poll::Ready(Some(Err(PayloadError::Overflow))),
        }
        let Poll::Ready(next) = Pin::new(&mut self.payload).poll_next(cx) else {
            self.connection.awaits_body();
            return Poll::Pending;
        };
        if next.is_none() {
            self.connection.complete_body();
        } else {
            self.connection.goes_on();
        }
        Poll::Ready(next)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.connection.goes_on();
    }
}
