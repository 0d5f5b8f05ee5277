//! A marketplace as we call it: fetch and report share one client and one token.

mod client;
mod tokens;

pub use client::{CallError, Fetched, MarketplaceClient, Reported};
