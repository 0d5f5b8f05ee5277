//! Doorbell from outside: over HTTP, against the library's own composition or the real program.
#![allow(
    unreachable_pub,
    clippy::expect_used,
    clippy::panic,
    clippy::too_many_lines,
    clippy::semicolon_if_nothing_returned,
    clippy::unnecessary_debug_formatting,
    clippy::zombie_processes,
    clippy::match_wild_err_arm,
    clippy::match_same_arms,
    clippy::unused_async,
    reason = "a test fails by panicking, and a table of cases is as long as there are cases"
)]

mod admin;
mod answers;
mod architecture;
mod attacks;
mod authentication;
mod bad_marketplace;
mod bodies;
mod calls;
mod claims;
mod command_line;
mod connections;
mod copies;
mod crash;
mod delivery;
mod egress;
mod event_urls;
mod full_disk;
mod handlers;
mod identity_providers;
mod json_documents;
mod limits;
mod odd_bodies;

mod logged;
mod peers;
mod power;
mod public_door;
mod receive;
mod storm;
mod support;
mod terminal;
mod tokens;
mod unlucky_days;
