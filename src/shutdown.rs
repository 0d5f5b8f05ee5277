//! When to stop.

use std::io::{self, Write as _};
use std::sync::mpsc as threads;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How long beyond what work in hand is given a stop may take, before the process ends without it.
const GRACE: Duration = Duration::from_secs(5);
/// How long a last word may take to be written: whoever reads it may have stopped reading.
const LAST_WORD: Duration = Duration::from_millis(200);
/// The exit code of a process that ends before it has stopped.
const AT_ONCE: i32 = 1;

/// A token that is cancelled at the first SIGTERM or SIGINT (Ctrl-C where there are no signals).
///
/// The second one ends the process at once, as it would any program, and so does the end of `shutdown_timeout` and a few
/// seconds: nothing recorded is lost by it (G9). Signals have a thread of their own, so that this holds whatever all the
/// others do.
///
/// # Errors
/// If the signals cannot be listened to.
pub(crate) fn on_signal(shutdown_timeout: Duration) -> io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    let (ready, listening) = threads::sync_channel(1);
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(ready.send(Err(error))),
        };
        runtime.block_on(async {
            let mut signals = match Signals::listen() {
                Ok(signals) => signals,
                Err(error) => return drop(ready.send(Err(error))),
            };
            let _ = ready.send(Ok(()));
            signals.next().await;
            stopping.cancel();
            say(|| tracing::info!("stopping; a second signal stops at once"));
            let limit = shutdown_timeout.saturating_add(GRACE);
            tokio::select! {
                () = signals.next() => say(|| tracing::warn!("stopped at once")),
                () = tokio::time::sleep(limit) => say(move || {
                    let limit = humantime::format_duration(limit);
                    tracing::error!("the receiver did not stop within {limit}; the process ends without it");
                }),
            }
            std::process::exit(AT_ONCE);
        });
    })?;
    listening.recv().map_err(io::Error::other)??;
    Ok(stop)
}

/// Logs, and does not wait for long if nobody takes what is logged.
fn say(words: impl FnOnce() + Send + 'static) {
    let (done, written) = threads::sync_channel(1);
    let writing = std::thread::Builder::new().spawn(move || {
        words();
        let _ = io::stderr().flush();
        let _ = done.send(());
    });
    if writing.is_ok() {
        let _ = written.recv_timeout(LAST_WORD);
    }
}

/// The signals that ask for a stop.
#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn listen() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Ctrl-C, which is all there is on this platform.
#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    }
}

/// Says, by being dropped, that its holder has let go of what it held.
#[derive(Debug, Clone)]
pub(crate) struct DropSignal(#[expect(unused, reason = "it is there to be dropped")] mpsc::Sender<()>);

/// Tells when every [`DropSignal`] is dropped.
#[derive(Debug)]
pub(crate) struct DropWaiter(mpsc::Receiver<()>);

/// A pair of the two.
#[must_use]
pub(crate) fn drop_signal() -> (DropSignal, DropWaiter) {
    let (signal, released) = mpsc::channel(1);
    (DropSignal(signal), DropWaiter(released))
}

impl DropWaiter {
    /// Returns once every [`DropSignal`] is dropped.
    pub(crate) async fn wait(&mut self) {
        // Nothing is ever sent.
        let _ = self.0.recv().await;
    }
}
