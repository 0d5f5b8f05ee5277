//! Doorbell answers when an AppDirect-powered marketplace rings.
//!
//! A marketplace notifies a vendor of an event: somebody bought, changed, cancelled, was given a seat. Doorbell
//! authenticates the notification, makes it durable, and only then answers. Then it reads the event, runs the
//! vendor's product logic until that has an outcome, and reports it, however often processes die, networks fail or
//! notifications repeat.
//!
//! ```text
//! marketplace ── GET /notifications/create?eventUrl=… ──▶ receive ─▶ authenticate ─▶ store ─▶ 202
//!                                                                                     ║
//! marketplace ◀── POST {eventUrl}/result ── report ◀── handle ◀── fetch ◀── claim ────╝
//! ```
//!
//! A vendor's own binary implements [`EventHandler`] and hands it to [`run`]; it keeps the whole command line
//! and configuration. See `examples/custom_handler.rs`.

// Whatever is printed goes through `cli::print`, which makes it fit for a terminal.
#![cfg_attr(not(test), warn(clippy::print_stdout, clippy::print_stderr))]

pub mod event;
pub mod handler;

// The rest is no public interface: it is open to the project's own tests and benchmarks, and changes with any release.
#[doc(hidden)]
pub mod receive;

#[doc(hidden)]
pub mod authenticate;

#[doc(hidden)]
pub mod store;

#[doc(hidden)]
pub mod deliver;

#[doc(hidden)]
pub mod marketplace;

mod admin;

#[cfg(feature = "sandbox")]
#[doc(hidden)]
pub mod sandbox;

#[doc(hidden)]
pub mod app;
#[doc(hidden)]
pub mod clock;
#[doc(hidden)]
pub mod config;

mod cli;
mod egress;
mod http;
mod log_limiter;
mod oidc;
mod printable;
mod shutdown;
mod telemetry;

pub use async_trait::async_trait;
pub use cli::{run, run_configured};
pub use handler::{EventHandler, Handler, HandlerError, HandlerResult, Outcome, Verdict, retry};
