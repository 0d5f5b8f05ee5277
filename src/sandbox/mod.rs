//! A marketplace to develop against: it serves the marketplace's side of the wire for real.
//!
//! It issues inbound tokens, gives out events and takes results. Before it notifies, it gets a bearer token of its own
//! from the receiver's token endpoint. `POST /simulate/…` makes something happen.

mod bodies;
mod market;
mod simulate;

use std::future::ready;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix_web::http::header::ALLOW;
use actix_web::{FromRequest, Handler, HttpResponse, Resource, Responder, web};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::clock::{Clock, SystemClock};
use crate::config::{Config, OutboundCredentials};
use crate::egress::{Egress, EgressError};
use crate::event::{BaseUrl, MAX_BODY_BYTES};
use crate::http::{self, ListenError, Listener};
use market::Market;

/// How long a stop waits for requests that are being answered.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// A marketplace that listens.
#[derive(Debug)]
pub struct Sandbox {
    /// Where it listens.
    pub address: SocketAddr,
    handle: actix_web::dev::ServerHandle,
    running: JoinHandle<std::io::Result<()>>,
    state: Arc<OnceLock<SandboxState>>,
}

/// What the sandbox's routes work with.
#[derive(Debug)]
struct SandboxState {
    market: Market,
    receiver: Receiver,
    clock: Arc<dyn DebugClock>,
}

/// A clock that can be printed, as everything in a [`SandboxState`] can.
trait DebugClock: Clock + std::fmt::Debug {}
impl<T: Clock + std::fmt::Debug> DebugClock for T {}

/// The receiver that is notified, and the credentials that it takes.
#[derive(Debug)]
struct Receiver {
    base: BaseUrl,
    outbound: OutboundCredentials,
    egress: Egress,
}

impl Sandbox {
    /// Binds `sandbox.listen`. Every request is answered 503 until [`Sandbox::open`] is called.
    ///
    /// # Errors
    /// If the address cannot be listened on.
    pub fn bind(config: &Config) -> Result<Self, ListenError> {
        let state = Arc::new(OnceLock::new());
        let shared = Arc::clone(&state);
        let listener = Listener::private(config.server.keep_alive, Arc::new(SystemClock), SHUTDOWN_TIMEOUT);
        let (server, address) = http::listen("sandbox.listen", config.sandbox.listen, listener, move |app| {
            app.app_data(web::Data::from(Arc::clone(&shared)));
            market::routes(app);
            simulate::routes(app);
        })?;
        Ok(Self { address, handle: server.handle(), running: tokio::spawn(server), state })
    }

    /// Begins to answer, and notifies the receiver at `receiver` with the first integration's credentials.
    ///
    /// # Errors
    /// If no client for the receiver can be made.
    pub fn open(
        &self,
        config: &Config,
        receiver: BaseUrl,
        clock: impl Clock + std::fmt::Debug,
    ) -> Result<(), EgressError> {
        let integration = &config.integrations[0];
        let base_url = format!("http://{}", self.address);
        let state = SandboxState {
            market: Market::new(base_url, &integration.marketplaces[0].inbound),
            receiver: Receiver {
                egress: Egress::new(&config.egress.direct(), vec![receiver.clone()], MAX_BODY_BYTES)?,
                base: receiver,
                outbound: integration.outbound.clone(),
            },
            clock: Arc::new(clock),
        };
        // There is one receiver, so a second call would change nothing.
        let _ = self.state.set(state);
        Ok(())
    }

    /// Stops listening.
    pub async fn stop(self) {
        self.handle.stop(true).await;
        let _ = self.running.await;
    }
}

/// A resource that is read.
fn read<F, Args>(path: &str, handler: F) -> Resource
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    http::readable(path, handler, refuse(http::READ))
}

/// A resource that does something when it is posted to.
fn act<F, Args>(path: &str, handler: F) -> Resource
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    http::postable(path, handler, refuse(http::POST))
}

/// Answers the methods that a resource does not have.
fn refuse(allowed: &'static str) -> impl Handler<(), Output = HttpResponse> {
    move || {
        let message = format!("this route answers {allowed}");
        ready(HttpResponse::MethodNotAllowed().insert_header((ALLOW, allowed)).json(json!({ "message": message })))
    }
}
