//! The composition root: the only place that knows which backends there are and puts the parts together.

mod signing_keys;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::web::ServiceConfig;
use thiserror::Error;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::admin::{AdminState, SigningKeys};
use crate::authenticate::{Authenticator, SetUpError};
use crate::clock::Clock;
use crate::config::{Config, HandlerKind, StoreUrl};
use crate::deliver::{self, Worker};
use crate::handler::{Accept, Handler};
use crate::http::{
    self, ConnectionLimits, ConnectionTimes, HEAD_SLACK, Listener, PRIVATE_CONNECTIONS, Wording, surplus,
};
use crate::marketplace::{CallError, MarketplaceClient};
use crate::receive::{LimitCounters, PublicListener};
use crate::shutdown::DropWaiter;
use crate::store::memory::MemoryStore;
use crate::store::sled::{OpenError, RecoveringStore};
use crate::store::{
    Accounts, Backup, Durability, EventStore, History, Inbox, Queue, Secrets, StoreError, prune_from_time_to_time,
};

pub use crate::http::ListenError;

/// How long the servers' threads may take to end once the servers have stopped.
const RELEASE_PATIENCE: Duration = Duration::from_secs(2);
/// How long it may take to give back the events that are still worked on then.
const GIVE_BACK_PATIENCE: Duration = Duration::from_millis(500);
/// The files of everything but connections and calls: the store, the threads of the servers, the log.
const OTHER_FILES: usize = 192;
/// The calls that authentication makes at once.
const AUTHENTICATION_CALLS: usize = 80;
/// What share of all connections one network may hold.
const SHARES: usize = 16;

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
    /// The handler's threads.
    #[error("the handler gets no threads: {0}; raise the limit of processes or of memory")]
    Threads(std::io::Error),
    /// A listener.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The ways in which marketplaces authenticate.
    #[error(transparent)]
    Authenticate(#[from] SetUpError),
}

/// A running Doorbell.
pub struct App {
    /// Where the public listener is.
    pub public: SocketAddr,
    /// Where the private listener is.
    pub admin: SocketAddr,
    shutdown_timeout: Duration,
    stop: CancellationToken,
    /// Cancelled when what is still worked on is to be given back.
    cut_off: CancellationToken,
    servers: Vec<(ServerHandle, JoinHandle<std::io::Result<()>>)>,
    limit_counters: Arc<LimitCounters>,
    /// Tells when the threads of the servers, which end a moment after these have stopped, have let go.
    released: DropWaiter,
    worker: JoinHandle<()>,
    retention: JoinHandle<()>,
    /// The store, if it was opened for this app.
    opened: Option<Arc<dyn EventStore>>,
    keys: JoinHandle<()>,
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App").field("public", &self.public).field("admin", &self.admin).finish_non_exhaustive()
    }
}

/// The traits of a store, each for whoever needs no more.
#[derive(Clone)]
pub struct StoreParts {
    /// For the listeners.
    pub inbox: Arc<dyn Inbox>,
    /// For delivery.
    pub queue: Arc<dyn Queue>,
    /// For the listeners, and for removing what is old.
    pub history: Arc<dyn History>,
    /// For delivery.
    pub accounts: Arc<dyn Accounts>,
    /// For authentication.
    pub secrets: Arc<dyn Secrets>,
    /// For operators.
    pub backup: Arc<dyn Backup>,
}

impl From<Arc<dyn EventStore>> for StoreParts {
    fn from(store: Arc<dyn EventStore>) -> Self {
        Self {
            inbox: Arc::clone(&store) as _,
            queue: Arc::clone(&store) as _,
            history: Arc::clone(&store) as _,
            accounts: Arc::clone(&store) as _,
            secrets: Arc::clone(&store) as _,
            backup: store as _,
        }
    }
}

impl App {
    /// Opens the store, binds both listeners and begins to work.
    ///
    /// # Errors
    /// See [`StartError`]. Nothing is left running then.
    pub async fn start(config: &Config, handler: Arc<dyn Handler>, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        let store = open_store(config, &clock).await?;
        let app = Self::start_on(config, Arc::clone(&store), handler, clock).await?;
        Ok(Self { opened: Some(store), ..app })
    }

    /// As [`App::start`], on a store that is open, and that whoever opened it closes.
    ///
    /// # Errors
    /// See [`StartError`]. Nothing is left running then.
    pub async fn start_on(
        config: &Config,
        store: impl Into<StoreParts>,
        handler: Arc<dyn Handler>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        let StoreParts { inbox, queue, history, accounts, secrets, backup } = store.into();
        let worker = Worker::new(
            queue,
            accounts,
            Arc::clone(&clock),
            handler,
            integrations(config, &clock)?,
            &config.delivery,
            config.handler.timeout,
        );
        let worker = Arc::new(worker.map_err(StartError::Threads)?);
        let authenticator = Arc::new(Authenticator::set_up(config, secrets, Arc::clone(&clock)).await?);
        let (drop_signal, released) = crate::shutdown::drop_signal();
        let delivery_ended = CancellationToken::new();
        let (to_door, to_admin) = (Arc::clone(&history), Arc::clone(&history));
        let public_routes =
            PublicListener::new(config, Arc::clone(&inbox), to_door, Arc::clone(&authenticator), Arc::clone(&clock));
        let public_routes = Arc::new(public_routes.beside_delivery(delivery_ended.clone(), drop_signal.clone()));
        let admin_state = Arc::new(AdminState::new(
            (inbox, to_admin, backup),
            Arc::clone(&authenticator) as Arc<dyn SigningKeys>,
            Arc::clone(&clock),
            config.admin.token.clone(),
            delivery_ended.clone(),
            drop_signal,
        ));

        let listener = public_listener(config, &public_routes, &clock, http::raise_open_file_limit());
        let at_public_routes = Arc::clone(&public_routes);
        let public = move |app: &mut ServiceConfig| at_public_routes.routes(app);
        let (public_server, public) = http::listen("server.listen", config.server.listen, listener, public)?;
        let listener = Listener::private(config.server.keep_alive, Arc::clone(&clock), config.server.shutdown_timeout);
        let private = move |app: &mut ServiceConfig| admin_state.routes(app);
        let (admin_server, admin) = http::listen("admin.listen", config.admin.listen, listener, private)?;
        let (stop, cut_off) = (CancellationToken::new(), CancellationToken::new());
        let servers = [public_server, admin_server].map(|server| (server.handle(), tokio::spawn(server))).into();
        Ok(Self {
            public,
            admin,
            shutdown_timeout: config.server.shutdown_timeout,
            limit_counters: public_routes.limit_counters(),
            released,
            worker: {
                let (stop, cut_off) = (stop.clone(), cut_off.clone());
                tokio::spawn(async move {
                    // However that ends, a panic included.
                    let _ended = delivery_ended.drop_guard();
                    worker.run(stop, cut_off).await;
                })
            },
            keys: tokio::spawn(authenticator.keep_keys_fresh(stop.clone())),
            retention: tokio::spawn(prune_from_time_to_time(history, clock, config.store.keep, stop.clone())),
            opened: None,
            stop,
            cut_off,
            servers,
        })
    }

    /// How often the public listener refused what went beyond its limits.
    #[must_use]
    pub fn limit_counters(&self) -> &LimitCounters {
        &self.limit_counters
    }

    /// Stops: takes nothing new, lets work in hand finish for `server.shutdown_timeout`, and lets go of the store.
    ///
    /// What does not finish in time is worked again at the next start.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let deadline = tokio::time::Instant::now() + self.shutdown_timeout;
        let mut servers = tokio::task::JoinSet::new();
        for (handle, running) in self.servers {
            servers.spawn(async move {
                handle.stop(true).await;
                let _ = running.await;
            });
        }
        // They end the connections that are left by themselves, at the deadline or a moment after it.
        if tokio::time::timeout_at(deadline + RELEASE_PATIENCE, servers.join_all()).await.is_err() {
            tracing::warn!("a listener did not stop in time");
        }
        if tokio::time::timeout_at(deadline, async { tokio::join!(self.retention, self.keys) }).await.is_err() {
            tracing::warn!("upkeep did not stop in time");
        }
        if tokio::time::timeout_at(deadline, &mut self.worker).await.is_err() {
            tracing::warn!("work in hand did not finish in time; it goes on at the next start");
            self.cut_off.cancel();
            if tokio::time::timeout(GIVE_BACK_PATIENCE, &mut self.worker).await.is_err() {
                self.worker.abort();
                let _ = self.worker.await;
            }
        }
        if tokio::time::timeout(RELEASE_PATIENCE, self.released.wait()).await.is_err() {
            tracing::warn!("a connection still holds the store open");
        }
        if let Some(store) = self.opened {
            store.close().await;
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
    Ok(Authenticator::set_up(config, Arc::clone(store) as _, Arc::clone(clock)).await?)
}

/// The public listener's part on an open store.
#[must_use]
pub fn open_public_listener(
    config: &Config,
    store: &Arc<dyn EventStore>,
    authenticator: &Arc<Authenticator>,
    clock: &Arc<dyn Clock>,
) -> PublicListener {
    PublicListener::new(
        config,
        Arc::clone(store) as _,
        Arc::clone(store) as _,
        Arc::clone(authenticator),
        Arc::clone(clock),
    )
}

/// The handler that is configured.
#[must_use]
pub fn configured_handler(config: &Config) -> Arc<dyn Handler> {
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

/// How the public listener treats its connections, with as many files as the process may have open.
fn public_listener(
    config: &Config,
    public_routes: &PublicListener,
    clock: &Arc<dyn Clock>,
    open_files: u64,
) -> Listener {
    let limits = &config.server.limits;
    let total = public_connections(limits.max_connections, config.delivery.concurrency, open_files);
    if total < limits.max_connections {
        tracing::warn!(
            open_files,
            connections = total,
            configured = limits.max_connections,
            "the process may not have as many files open as server.limits.max_connections asks for; raise the hard \
             limit (LimitNOFILE=, ulimit -Hn), or lower the key"
        );
    }
    Listener {
        times: ConnectionTimes {
            keep_alive: config.server.keep_alive,
            request: limits.request_timeout,
            answer: limits.request_timeout,
            max_head_bytes: limits.max_url_bytes.saturating_add(limits.max_header_bytes).saturating_add(HEAD_SLACK),
            max_body_bytes: limits.max_body_bytes,
        },
        connections: ConnectionLimits {
            total,
            of_network: limits.max_connections_per_address.unwrap_or(total / SHARES).max(1),
            surplus: surplus(total),
            exempt: config.server.trusted_proxies.clone(),
        },
        limit_counters: public_routes.limit_counters(),
        wording: Wording::Text,
        clock: Arc::clone(clock),
        shutdown_timeout: config.server.shutdown_timeout,
    }
}

/// How many connections the public listener may have, so that files are left for all else.
fn public_connections(configured: usize, calls: usize, open_files: u64) -> usize {
    let open_files = usize::try_from(open_files).unwrap_or(usize::MAX);
    let reserve = OTHER_FILES + AUTHENTICATION_CALLS + PRIVATE_CONNECTIONS + 2 * surplus(PRIVATE_CONNECTIONS);
    let sockets = open_files.saturating_sub(reserve.saturating_add(calls)).max(open_files / 4);
    // Twice the surplus, an eighth each, is open beside them at the worst.
    configured.min(sockets / 5 * 4).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_the_store_the_calls_and_the_private_listener() {
        let with_64_calls = |open_files| public_connections(4096, 64, open_files);
        assert_eq!(with_64_calls(u64::MAX), 4096);
        assert_eq!(with_64_calls(1 << 20), 4096);
        for open_files in [64, 256, 1024, 4096] {
            let total = with_64_calls(open_files);
            let at_worst = u64::try_from(total + 2 * surplus(total)).expect("few");
            assert!(total >= 1 && at_worst <= open_files / 4 * 4, "{total} of {open_files}");
        }
        assert!((300..1024).contains(&with_64_calls(1024)), "{}", with_64_calls(1024));
        assert!((2500..4096).contains(&with_64_calls(4096)), "{}", with_64_calls(4096));
        assert_eq!(public_connections(10, 64, 1024), 10, "never more than is configured");
    }
}
