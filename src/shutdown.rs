//! When to stop.

use std::io;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// A token that is cancelled at the first SIGTERM or SIGINT.
///
/// The second one ends the process at once, as it would any program: nothing recorded is lost by it (G9).
///
/// # Errors
/// If the signals cannot be listened to.
#[cfg(unix)]
pub(crate) fn on_signal() -> io::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    tokio::spawn(async move {
        let mut wait = async || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        wait().await;
        tracing::info!("stopping; a second signal stops at once");
        stopping.cancel();
        wait().await;
        tracing::warn!("stopped at once");
        std::process::exit(1);
    });
    Ok(stop)
}

/// A token that is cancelled at Ctrl-C.
///
/// # Errors
/// Never on this platform.
#[cfg(not(unix))]
pub(crate) fn on_signal() -> io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    tokio::spawn(async move {
        let _ = tokio::signal::ctrl_c().await;
        stopping.cancel();
    });
    Ok(stop)
}

/// Says, by being dropped, that its holder has let go of what it held.
#[derive(Debug, Clone)]
pub(crate) struct Held(#[expect(unused, reason = "it is there to be dropped")] mpsc::Sender<()>);

/// Tells when every [`Held`] is dropped.
#[derive(Debug)]
pub(crate) struct Released(mpsc::Receiver<()>);

/// A pair of the two.
#[must_use]
pub(crate) fn hold() -> (Held, Released) {
    let (held, released) = mpsc::channel(1);
    (Held(held), Released(released))
}

impl Released {
    /// Returns once every [`Held`] is dropped.
    pub(crate) async fn wait(&mut self) {
        // Nothing is ever sent.
        let _ = self.0.recv().await;
    }
}
