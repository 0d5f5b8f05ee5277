//! A marketplace as we call it: fetch and report share one client and one token.

mod client;
mod token_answer;
mod token_endpoint;
mod tokens;

pub use client::{CallError, Fetched, MarketplaceClient, Reported};
pub use token_endpoint::CredentialForm;
