//! The composition root: the only place that knows which backends there are and puts the parts together.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::web::ServiceConfig;
use actix_web::{App as ActixApp, HttpServer};
use async_trait::async_trait;
use secrecy::SecretSlice;
use thiserror::Error;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::admin::Office;
use crate::authenticate::{Authenticator, Nonce, SetUpError, Vault, VaultError};
use crate::clock::{Clock, Timestamp};
use crate::config::{Config, HandlerKind, StoreUrl};
use crate::deliver::{self, Worker};
use crate::handler::{Accept, EventHandler};
use crate::marketplace::{CallError, MarketplaceClient};
use crate::receive::{Door, Refusals};
use crate::shutdown::{Released, hold};
use crate::store::memory::MemoryStore;
use crate::store::recovering::RecoveringStore;
use crate::store::sled::OpenError;
use crate::store::{Durability, EventStore, StoreError, prune_from_time_to_time};

/// How long a client may take to send a request's head, where no limit is configured.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the servers' threads may take to end once the servers have stopped.
const RELEASE_PATIENCE: Duration = Duration::from_secs(2);
/// How long an idle connection is kept.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// Why Doorbell does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The data directory.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store, once open.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A marketplace's client.
    #[error("marketplace {base_url}: {source}")]
    Marketplace {
        /// Which.
        base_url: String,
        /// Why.
        source: CallError,
    },
    /// A listener.
    #[error(
        "{key} {address} cannot be listened on: {source}; stop what listens there, or set {key} to another address"
    )]
    Listen {
        /// The configuration key.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The ways in which marketplaces authenticate.
    #[error(transparent)]
    Authenticate(#[from] SetUpError),
}

/// A running Doorbell.
#[derive(Debug)]
pub struct App {
    /// Where the public listener is.
    pub public: SocketAddr,
    /// Where the private listener is.
    pub admin: SocketAddr,
    shutdown_timeout: Duration,
    stop: CancellationToken,
    servers: Vec<(ServerHandle, JoinHandle<std::io::Result<()>>)>,
    refusals: Arc<Refusals>,
    /// Tells when the threads of the servers, which end a moment after these have stopped, have let go.
    released: Released,
    worker: JoinHandle<()>,
    retention: JoinHandle<()>,
    keys: JoinHandle<()>,
}

impl App {
    /// Opens the store, binds both listeners and begins to work.
    ///
    /// # Errors
    /// See [`StartError`]. Nothing is left running then.
    pub async fn start(
        config: &Config,
        handler: Arc<dyn EventHandler>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        let store = open_store(config, &clock).await?;
        Self::start_on(config, store, handler, clock).await
    }

    /// As [`App::start`], on a store that is open.
    ///
    /// # Errors
    /// See [`StartError`]. Nothing is left running then.
    pub async fn start_on(
        config: &Config,
        store: Arc<dyn EventStore>,
        handler: Arc<dyn EventHandler>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        let worker = Arc::new(Worker::new(
            Arc::clone(&store),
            Arc::clone(&clock),
            handler,
            integrations(config, &clock)?,
            &config.delivery,
            config.handler.timeout,
        ));
        let authenticator = Arc::new(authenticator(config, &store, &clock).await?);
        let (held, released) = hold();
        let door = Arc::new(open_door(config, &store, &authenticator, &clock).holding(held.clone()));
        let office = Arc::new(Office::new(
            Arc::clone(&store),
            Arc::clone(&authenticator),
            Arc::clone(&clock),
            config.admin.token.clone(),
            held,
        ));

        let timeout = config.server.shutdown_timeout;
        let at_door = Arc::clone(&door);
        let public = move |app: &mut ServiceConfig| at_door.routes(app);
        let (public_server, public) = listen("server.listen", config.server.listen, timeout, Some(&door), public)?;
        let private = move |app: &mut ServiceConfig| office.routes(app);
        let (admin_server, admin) = listen("admin.listen", config.admin.listen, timeout, None, private)?;
        let stop = CancellationToken::new();
        let servers = [public_server, admin_server].map(|server| (server.handle(), tokio::spawn(server))).into();
        Ok(Self {
            public,
            admin,
            shutdown_timeout: config.server.shutdown_timeout,
            refusals: door.refusals(),
            released,
            worker: tokio::spawn(worker.run(stop.clone())),
            keys: tokio::spawn(authenticator.keep_keys_fresh(stop.clone())),
            retention: tokio::spawn(prune_from_time_to_time(store, clock, config.store.keep, stop.clone())),
            stop,
            servers,
        })
    }

    /// How often the public listener refused what went beyond its limits.
    #[must_use]
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// Stops: takes nothing new, lets work in hand finish for `server.shutdown_timeout`, and lets go of the store.
    ///
    /// What does not finish in time is worked again at the next start.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let deadline = tokio::time::Instant::now() + self.shutdown_timeout;
        for (handle, running) in self.servers {
            handle.stop(true).await;
            let _ = running.await;
        }
        let _ = tokio::join!(self.retention, self.keys);
        if tokio::time::timeout_at(deadline, &mut self.worker).await.is_err() {
            tracing::warn!("work in hand did not finish in time; it goes on at the next start");
            self.worker.abort();
            let _ = self.worker.await;
        }
        if tokio::time::timeout(RELEASE_PATIENCE, self.released.wait()).await.is_err() {
            tracing::warn!("a connection still holds the store open");
        }
    }
}

/// Opens the configured store.
///
/// # Errors
/// If it cannot be opened; the error says what to do.
pub async fn open_store(config: &Config, clock: &Arc<dyn Clock>) -> Result<Arc<dyn EventStore>, OpenError> {
    match &config.store.url {
        StoreUrl::Memory => Ok(Arc::new(MemoryStore::new())),
        StoreUrl::Sled(directory) => {
            let (directory, require_durable, clock) =
                (directory.clone(), config.store.require_durable, Arc::clone(clock));
            let opened =
                tokio::task::spawn_blocking(move || RecoveringStore::open(&directory, require_durable, clock)).await;
            let store = opened.unwrap_or_else(|failure| std::panic::resume_unwind(failure.into_panic()))?;
            Ok(Arc::new(store))
        }
    }
}

/// Everything that decides who is calling, on an open store.
///
/// # Errors
/// If the signing keys can be neither read nor kept, or a way to an identity provider cannot be set up.
pub async fn authenticator(
    config: &Config,
    store: &Arc<dyn EventStore>,
    clock: &Arc<dyn Clock>,
) -> Result<Authenticator, StartError> {
    let vault = Arc::new(StoreVault { store: Arc::clone(store), clock: Arc::clone(clock) });
    Ok(Authenticator::set_up(config, vault, Arc::clone(clock)).await?)
}

/// The public listener's part on an open store.
#[must_use]
pub fn open_door(
    config: &Config,
    store: &Arc<dyn EventStore>,
    authenticator: &Arc<Authenticator>,
    clock: &Arc<dyn Clock>,
) -> Door {
    Door::new(config, Arc::clone(store), Arc::clone(authenticator), Arc::clone(clock))
}

/// The store as authentication sees it.
struct StoreVault {
    store: Arc<dyn EventStore>,
    clock: Arc<dyn Clock>,
}

#[async_trait]
impl Vault for StoreVault {
    async fn secret(&self, name: &str, fresh: SecretSlice<u8>) -> Result<SecretSlice<u8>, VaultError> {
        self.store.secret(name, fresh).await.map_err(vault_error)
    }

    async fn replace_secret(
        &self,
        name: &str,
        held: &SecretSlice<u8>,
        fresh: SecretSlice<u8>,
    ) -> Result<bool, VaultError> {
        self.store.replace_secret(name, held, fresh).await.map_err(vault_error)
    }

    async fn use_nonce(&self, nonce: Nonce, until: Timestamp) -> Result<bool, VaultError> {
        self.store.use_nonce(nonce.0, until, self.clock.now()).await.map_err(vault_error)
    }
}

fn vault_error(error: StoreError) -> VaultError {
    VaultError(Box::new(error))
}

/// The handler that is configured.
#[must_use]
pub fn configured_handler(config: &Config) -> Arc<dyn EventHandler> {
    match config.handler.kind {
        HandlerKind::Accept => Arc::new(Accept),
    }
}

/// A client for each configured marketplace.
///
/// # Errors
/// If one of them cannot be set up.
pub fn integrations(config: &Config, clock: &Arc<dyn Clock>) -> Result<Vec<deliver::Integration>, StartError> {
    let integration = |configured: &crate::config::Integration| {
        let marketplaces = configured.marketplaces.iter().map(|marketplace| {
            MarketplaceClient::new(marketplace, &config.egress, Arc::clone(clock))
                .map_err(|source| StartError::Marketplace { base_url: marketplace.base_url.to_string(), source })
        });
        Ok(deliver::Integration {
            name: configured.name.clone(),
            answers: configured.answer.clone(),
            marketplaces: marketplaces.collect::<Result<_, _>>()?,
        })
    };
    config.integrations.iter().map(integration).collect()
}

/// Says what an operator should know about the store before relying on it.
pub fn warn_of_durability(config: &Config, durability: Durability) {
    let StoreUrl::Sled(directory) = &config.store.url else { return };
    if !durability.is_proven() {
        tracing::warn!(
            directory = %directory.display(),
            %durability,
            "loss of power may lose acknowledged events; put store.url on ext4, xfs or btrfs"
        );
    }
}

/// Binds a listener and makes a server of `routes` on it, within the limits of the `door` if it has one. It serves
/// once it is polled.
pub(crate) fn listen(
    key: &'static str,
    address: SocketAddr,
    shutdown_timeout: Duration,
    door: Option<&Arc<Door>>,
    routes: impl Fn(&mut ServiceConfig) + Send + Clone + 'static,
) -> Result<(actix_web::dev::Server, SocketAddr), StartError> {
    let failed = |source| StartError::Listen { key, address, source };
    let workers = std::thread::available_parallelism().map_or(2, usize::from).min(8);
    let limits = door.map(|door| door.limits());
    let mut server = HttpServer::new(move || ActixApp::new().configure(routes.clone()))
        .workers(workers)
        .client_request_timeout(limits.map_or(REQUEST_TIMEOUT, |limits| limits.request_timeout))
        .keep_alive(KEEP_ALIVE)
        // A caller that hung up is not given a result: it is reported instead.
        .h1_allow_half_closed(false)
        .shutdown_timeout(shutdown_timeout.as_secs().max(1))
        .disable_signals();
    if let Some(limits) = limits {
        // Those beyond the limit are told so, and how many are told is limited in turn: the rest is not accepted.
        server = server.max_connections(limits.max_connections.saturating_mul(2).div_ceil(workers));
    }
    if let Some(door) = door {
        server = server.on_connect(door.on_connect());
    }
    let server = server.bind(address).map_err(failed)?;
    let bound = server.addrs().first().copied().unwrap_or(address);
    Ok((server.run(), bound))
}
