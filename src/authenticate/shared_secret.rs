//! Clients that prove themselves by a name and a secret.

use std::sync::Arc;

use subtle::{Choice, ConstantTimeEq};

use crate::config::{Secret, SharedSecret};

/// A client that proves itself by a secret we know too.
pub(super) struct Client {
    /// The integration it notifies.
    pub(super) integration: Arc<str>,
    pub(super) id: String,
    secrets: Vec<Secret>,
}

impl Client {
    pub(super) fn new(integration: Arc<str>, client: &SharedSecret) -> Self {
        let secrets = std::iter::once(&client.client_secret).chain(&client.previous_client_secret).cloned();
        Self { integration, id: client.client_id.clone(), secrets: secrets.collect() }
    }

    /// Its secrets: the present one, and the one before while it is configured.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &[u8]> {
        self.secrets.iter().map(|secret| secret.expose().as_bytes())
    }

    /// Whether `name` and `password` are this client's. The time it takes does not depend on where they differ, nor
    /// on which of them does.
    pub(super) fn is_proven_by(&self, name: &[u8], password: &[u8]) -> bool {
        let known = self.secrets().fold(Choice::from(0), |found, secret| found | same(password, secret));
        (same(name, self.id.as_bytes()) & known).into()
    }
}

/// Compares in a time that does not depend on where the two differ. Text beyond ASCII may have been sent as Latin-1
/// (RFC 7617 §2.1 leaves it open), so that is tried too.
fn same(given: &[u8], expected: &[u8]) -> Choice {
    let mut same = given.ct_eq(expected);
    if !expected.is_ascii()
        && let Some(latin1) = std::str::from_utf8(expected).ok().and_then(as_latin1)
    {
        same |= given.ct_eq(&latin1);
    }
    same
}

fn as_latin1(text: &str) -> Option<Vec<u8>> {
    text.chars().map(|character| u8::try_from(character).ok()).collect()
}

/// The client among `clients` that `name` and `password` prove. Every one is compared, so that the time taken does
/// not tell which exist.
pub(super) fn proven<'a>(clients: &'a [Client], name: &[u8], password: &[u8]) -> Option<&'a Client> {
    let mut proven = None;
    for client in clients {
        if client.is_proven_by(name, password) {
            proven = Some(client);
        }
    }
    proven
}
