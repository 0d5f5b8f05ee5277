//! A marketplace to develop against: it plays the other side of the wire for real.
//!
//! It issues inbound tokens, gives out events, takes results, and gets its own bearer token from the receiver's
//! token endpoint before it notifies. `POST /simulate/…` makes something happen.

mod bodies;
mod market;
mod simulate;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header::ALLOW;
use actix_web::{FromRequest, Handler, HttpResponse, Resource, Responder, guard, web};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::app::{StartError, listen, private_listener};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, OutboundCredentials};
use crate::egress::{Egress, EgressError};
use crate::event::{BaseUrl, MAX_BODY_BYTES};
use market::Market;

/// How long requests in hand may finish at a stop.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// A marketplace that listens.
#[derive(Debug)]
pub struct Sandbox {
    /// Where it listens.
    pub address: SocketAddr,
    handle: actix_web::dev::ServerHandle,
    running: JoinHandle<std::io::Result<()>>,
    desk: Arc<std::sync::OnceLock<Desk>>,
}

/// What the sandbox's routes work with.
#[derive(Debug)]
pub(crate) struct Desk {
    market: Market,
    receiver: Receiver,
    clock: Arc<dyn ClockDebug>,
}

/// A clock that can be printed, as everything in a `Desk` can.
pub(crate) trait ClockDebug: Clock + std::fmt::Debug {}
impl<T: Clock + std::fmt::Debug> ClockDebug for T {}

/// The receiver that is notified, and how we prove to it who we are.
#[derive(Debug)]
struct Receiver {
    base: BaseUrl,
    outbound: OutboundCredentials,
    egress: Egress,
}

impl Sandbox {
    /// Binds `sandbox.listen`; until [`Sandbox::open`] it turns everybody away.
    ///
    /// # Errors
    /// If the address cannot be listened on.
    pub fn bind(config: &Config) -> Result<Self, StartError> {
        let desk = Arc::new(std::sync::OnceLock::new());
        let shared = Arc::clone(&desk);
        let listener = private_listener(config.server.keep_alive, Arc::new(SystemClock), SHUTDOWN_TIMEOUT);
        let (server, address) = listen("sandbox.listen", config.sandbox.listen, listener, move |app| {
            app.app_data(web::Data::from(Arc::clone(&shared)));
            market::routes(app);
            simulate::routes(app);
        })?;
        Ok(Self { address, handle: server.handle(), running: tokio::spawn(server), desk })
    }

    /// Opens for business: notifies the receiver at `receiver` by the first integration's credentials.
    ///
    /// # Errors
    /// If no client for the receiver can be set up.
    pub fn open(
        &self,
        config: &Config,
        receiver: BaseUrl,
        clock: impl Clock + std::fmt::Debug,
    ) -> Result<(), EgressError> {
        let integration = &config.integrations[0];
        let base_url = format!("http://{}", self.address);
        let desk = Desk {
            market: Market::new(base_url, &integration.marketplaces[0].inbound),
            receiver: Receiver {
                egress: Egress::new(&config.egress.direct(), vec![receiver.clone()], MAX_BODY_BYTES)?,
                base: receiver,
                outbound: integration.outbound.clone(),
            },
            clock: Arc::new(clock),
        };
        // A second opening would change nothing; there is one receiver.
        let _ = self.desk.set(desk);
        Ok(())
    }

    /// Stops listening.
    pub async fn stop(self) {
        self.handle.stop(true).await;
        let _ = self.running.await;
    }
}

/// A route that is read, and asked for its head alone.
fn read<F, Args>(path: &str, handler: F) -> Resource
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    let reads = guard::Any(guard::Get()).or(guard::Head());
    only("GET, HEAD", web::resource(path).route(web::route().guard(reads).to(handler)))
}

/// A route that does something.
fn act<F, Args>(path: &str, handler: F) -> Resource
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    only("POST", web::resource(path).route(web::post().to(handler)))
}

fn only(allowed: &'static str, resource: Resource) -> Resource {
    resource.default_service(web::to(move || async move {
        let message = format!("this route answers {allowed}");
        HttpResponse::MethodNotAllowed().insert_header((ALLOW, allowed)).json(json!({ "message": message }))
    }))
}
