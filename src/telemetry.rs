//! What the program says of itself.
//!
//! Two things hold whatever the configuration says (G11). Libraries that handle bodies, headers, credentials or the
//! store's pages say nothing below `info`. And no line holds a character that a terminal obeys instead of showing it.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt;
use std::io::Write;
use std::panic::PanicHookInfo;

use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{DefaultFields, FormatEvent, FormatFields, Writer};
use tracing_subscriber::layer::{Context, Filter, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{Log, LogFormat};
use crate::printable;

/// Libraries that log, or do with a feature that a vendor's binary may turn on. Below `info` they print what passes through
/// them: sled its pages, with the signing keys in them, as decimal bytes; HTTP libraries headers and buffers.
const CAPPED: [&str; 37] = [
    "actix_codec",
    "actix_http",
    "actix_router",
    "actix_rt",
    "actix_server",
    "actix_web",
    "fuser",
    "h2",
    "hyper",
    "hyper_rustls",
    "hyper_util",
    "iana_time_zone",
    "jiff",
    "jiff_core",
    "jni",
    "jsonwebtoken",
    "log",
    "mio",
    "oauth2",
    "quick_xml",
    "quinn",
    "quinn_proto",
    "quinn_udp",
    "reqwest",
    "rustls",
    "rustls_platform_verifier",
    "sled",
    "tokio",
    "tokio_rustls",
    "tokio_util",
    "tower",
    "tower_http",
    "tracing",
    "tracing_log",
    "tracing_serde",
    "tracing_subscriber",
    "webpki",
];

/// Sends log lines to standard error, as configured, panics among them. The first call in a process counts.
pub(crate) fn start(log: &Log) {
    let format = log.format;
    // A closed standard error is no reason to panic, which is what reporting a failed write to it would do.
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).log_internal_errors(false);
    let lines = match format {
        LogFormat::Text => lines.with_target(false).with_ansi(use_colour()).fmt_fields(PrintableFields).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).map_event_format(PrintableJson).boxed(),
    };
    let lines = lines.with_filter(Capped(filter(&log.level)));
    // A test may have set a subscriber of its own.
    let _ = tracing_subscriber::registry().with(lines).try_init();
    std::panic::set_hook(Box::new(log_panic));
}

fn filter(level: &str) -> EnvFilter {
    // A level is meant for Doorbell, and so is a filter that does not name these; actix's own word at it is that its threads
    // start, and an error for every request that is none, which anybody may send.
    let mut directives = level.to_owned();
    for (library, most) in [("actix_server", "warn"), ("actix_http", "off")] {
        if !level.contains(library) {
            directives = format!("{directives},{library}={most}");
        }
    }
    EnvFilter::try_new(directives).unwrap_or_else(|_| EnvFilter::new("info"))
}

fn use_colour() -> bool {
    use std::io::IsTerminal;
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// A configured filter, beneath a cap that no directive of it lifts.
struct Capped(EnvFilter);

impl Capped {
    fn is_above_cap(metadata: &Metadata<'_>) -> bool {
        let library = metadata.target().split("::").next().unwrap_or_default();
        *metadata.level() > Level::INFO && CAPPED.binary_search(&library).is_ok()
    }
}

impl<S: Subscriber> Filter<S> for Capped
where
    EnvFilter: Filter<S>,
{
    fn enabled(&self, metadata: &Metadata<'_>, context: &Context<'_, S>) -> bool {
        !Self::is_above_cap(metadata) && Filter::enabled(&self.0, metadata, context)
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        if Self::is_above_cap(metadata) { Interest::never() } else { Filter::callsite_enabled(&self.0, metadata) }
    }

    fn event_enabled(&self, event: &Event<'_>, context: &Context<'_, S>) -> bool {
        Filter::event_enabled(&self.0, event, context)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Filter::<S>::max_level_hint(&self.0)
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        Filter::on_new_span(&self.0, attributes, id, context);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        Filter::on_record(&self.0, id, values, context);
    }

    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        Filter::on_enter(&self.0, id, context);
    }

    fn on_exit(&self, id: &Id, context: Context<'_, S>) {
        Filter::on_exit(&self.0, id, context);
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        Filter::on_close(&self.0, id, context);
    }
}

/// Message and fields of a line of text, fit to be printed. The library's own escaping knows some characters only, and
/// lets a line end through, which would begin a line that nobody wrote.
struct PrintableFields;

impl<'writer> FormatFields<'writer> for PrintableFields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut text = String::new();
        DefaultFields::new().format_fields(Writer::new(&mut text), fields)?;
        writer.write_str(&printable::line(&text))
    }
}

/// Lines of JSON, fit to be printed: the library escapes what JSON wants escaped, which is less.
struct PrintableJson<F>(F);

impl<S, N, F> FormatEvent<S, N> for PrintableJson<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut document = String::new();
        self.0.format_event(context, Writer::new(&mut document), event)?;
        writer.write_str(&printable::json(&document))
    }
}

/// Logs a panic like anything else, so that a log of JSON stays one and a terminal is obeyed by nobody. Where the panic is
/// the store's engine's own, its words are left out: they may show a page.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let at = panic.location().map(ToString::to_string).unwrap_or_default();
    let is_engine = at.contains("/sled-") || at.contains("/vendor/sled/");
    let reason = if is_engine { None } else { panic.payload_as_str() };
    let reason = reason.unwrap_or("its reason is not printed");
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    if tracing::enabled!(Level::ERROR) {
        tracing::error!(thread, at, backtrace, "panicked: {reason}");
    } else {
        let _ = writeln!(std::io::stderr(), "doorbell: thread {thread} panicked at {at}: {}", printable::line(reason));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_lets_strangers_fill_the_log_no_more_than_a_level_does() {
        for level in ["info", "info,doorbell::deliver=debug", "warn,doorbell=info"] {
            let filter = filter(level).to_string();
            assert!(filter.contains("actix_http=off"), "{level}: {filter}");
        }
        assert!(filter("info,actix_http=error").to_string().contains("actix_http=error"), "unless it is asked for");
    }

    #[test]
    fn every_library_that_can_log_is_capped() {
        let lock: toml::Table = include_str!("../Cargo.lock").parse().expect("a lock file");
        let packages = lock["package"].as_array().expect("packages");
        let logs = |package: &&toml::Value| {
            let dependencies = package.get("dependencies").and_then(toml::Value::as_array);
            let mut names = dependencies.into_iter().flatten().filter_map(toml::Value::as_str);
            names.any(|name| matches!(name.split(' ').next(), Some("log" | "tracing" | "tracing-core")))
        };
        let logging: Vec<_> = packages.iter().filter(logs).filter_map(|package| package["name"].as_str()).collect();
        assert!(logging.contains(&"sled"), "{logging:?}");
        for name in logging {
            let is_capped = CAPPED.contains(&name.replace('-', "_").as_str());
            assert!(
                is_capped || name == "doorbell",
                "{name} can log: look at what it prints, and cap it in telemetry.rs"
            );
        }
        assert!(CAPPED.is_sorted());
    }
}
