//! When to stop.

use std::io;

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
