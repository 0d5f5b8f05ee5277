//! How small and how large a value may be: what is beyond is a slip of the pen, and would be found out in the night.

use std::time::Duration;

use super::{Config, Outbound};

/// The longest duration that anything may have: a hundred years. No sum of it and a moment overflows.
pub(super) const LONGEST: Duration = Duration::from_hours(24 * 36_500);
const DAY: Duration = Duration::from_hours(24);
const HOUR: Duration = Duration::from_hours(1);
const MINUTE: Duration = Duration::from_mins(1);
const MILLISECOND: Duration = Duration::from_millis(1);

/// The most waits that `delivery.retry` may list.
const MOST_RETRIES: usize = 100;

impl Config {
    /// Every duration and number that is out of bounds: its key, and what is wrong with it.
    pub(super) fn out_of_bounds(&self) -> Vec<(String, String)> {
        let mut durations = vec![
            ("server.shutdown_timeout".to_owned(), self.server.shutdown_timeout, Duration::ZERO, HOUR),
            ("server.keep_alive".to_owned(), self.server.keep_alive, 100 * MILLISECOND, HOUR),
            (
                "server.limits.request_timeout".to_owned(),
                self.server.limits.request_timeout,
                100 * MILLISECOND,
                10 * MINUTE,
            ),
            // A notification that is repeated after its event was forgotten is a new event.
            ("store.keep".to_owned(), self.store.keep, MINUTE, LONGEST),
            ("handler.timeout".to_owned(), self.handler.timeout, MILLISECOND, DAY),
            ("delivery.give_up_after".to_owned(), self.delivery.give_up_after, Duration::ZERO, LONGEST),
            ("egress.connect_timeout".to_owned(), self.egress.connect_timeout, MILLISECOND, HOUR),
            ("egress.read_timeout".to_owned(), self.egress.read_timeout, MILLISECOND, HOUR),
            ("egress.total_timeout".to_owned(), self.egress.total_timeout, MILLISECOND, HOUR),
        ];
        let waits = self.delivery.retry.iter().enumerate();
        durations.extend(waits.map(|(at, wait)| (format!("delivery.retry[{at}]"), *wait, MILLISECOND, 30 * DAY)));
        for (at, integration) in self.integrations.iter().enumerate() {
            for (key, outbound) in integration.outbound.keyed() {
                if let Outbound::Oauth2(oauth2) = outbound {
                    let key = format!("integrations[{at}].{key}.token_lifetime");
                    durations.push((key, oauth2.token_lifetime, MINUTE, 365 * DAY));
                }
            }
        }
        let limits = &self.server.limits;
        let numbers = [
            // An event URL must fit; more than 65,534 bytes no request line has.
            ("server.limits.max_url_bytes", limits.max_url_bytes, 256, 65_534),
            ("server.limits.max_header_bytes", limits.max_header_bytes, 512, 131_072),
            ("server.limits.max_body_bytes", limits.max_body_bytes, 128, 1 << 20),
            ("server.limits.max_connections", limits.max_connections, 1, 1_000_000),
            (
                "server.limits.max_connections_per_address",
                limits.max_connections_per_address.unwrap_or(1),
                1,
                1_000_000,
            ),
            ("server.limits.max_requests_in_flight", limits.max_requests_in_flight, 1, 1_000_000),
            ("delivery.concurrency", self.delivery.concurrency, 1, 10_000),
            ("delivery.concurrency_per_marketplace", self.delivery.concurrency_per_marketplace, 1, 10_000),
            ("delivery.retry", self.delivery.retry.len(), 1, MOST_RETRIES),
        ];
        let durations = durations.into_iter().filter(|(_, given, least, most)| given < least || given > most);
        let numbers = numbers.into_iter().filter(|(_, given, least, most)| given < least || given > most);
        let written = |duration| humantime::format_duration(duration);
        durations
            .map(|(key, given, least, most)| {
                let (given, least, most) = (written(given), written(least), written(most));
                (key, format!("is {given}, which makes no sense; write a duration from \"{least}\" to \"{most}\""))
            })
            .chain(numbers.map(|(key, given, least, most)| {
                let problem = match key {
                    "delivery.retry" if given == 0 => {
                        "is empty; write at least one duration, such as [\"5s\"]".to_owned()
                    }
                    "delivery.retry" => format!("has {given} entries; write at most {most}, the last one repeats"),
                    _ => format!("is {given}, which makes no sense; write a number from {least} to {most}"),
                };
                (key.to_owned(), problem)
            }))
            .collect()
    }
}

/// What is wrong with a text that names or proves somebody: nobody means an empty one, and no line end or space at its ends
/// is seen in a file or a variable.
pub(super) fn text_fault(text: &str) -> Option<&'static str> {
    if text.trim().is_empty() {
        Some("is empty")
    } else if text.chars().any(char::is_control) {
        Some("holds a line end or another control character")
    } else if text.trim() != text {
        Some("begins or ends with a space")
    } else {
        None
    }
}
