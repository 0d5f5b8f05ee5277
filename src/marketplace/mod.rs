//! A marketplace as we call it: fetch and report share one client and one token.

mod call_error;
mod client;
mod token_answer;
mod token_endpoint;
mod tokens;

pub use call_error::CallError;
pub use client::{Fetched, MarketplaceClient, Reported};
pub use token_endpoint::CredentialForm;
