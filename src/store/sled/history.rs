//! Showing events, and removing those that are old; how accounts stand.

use std::sync::Arc;

use async_trait::async_trait;
use sled::Tree;

use super::index::Name;
use super::records::newest_first;
use super::retention::Found;
use super::store::SledStore;
use super::writer::Write;
use crate::clock::Timestamp;
use crate::event::{AccountStatus, EventId};
use crate::store::accounts::Accounts;
use crate::store::codec;
use crate::store::error::StoreError;
use crate::store::history::{Counts, Filter, History, Page, Pruned};
use crate::store::local::lock;
use crate::store::local::subscriptions::Subscription;
use crate::store::retention::Retention;
use crate::store::stored_event::{Sequence, StoredEvent};

/// Records that one call looks at, at most.
const LOOKED_AT: usize = 4096;

/// Does what reads much of the disk where nobody waits for a thread.
async fn aside<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(read).await.map_err(|error| StoreError::Unavailable(error.to_string()))?
}

/// A page of a listing, for which `most` records are looked at.
fn page(tree: &Tree, filter: &Filter, before: Option<Sequence>, limit: usize, most: usize) -> Result<Page, StoreError> {
    let mut page = Page::default();
    for (looked_at, entry) in newest_first(tree, before).enumerate() {
        let (sequence, bytes) = entry?;
        if page.events.len() + page.unreadable.len() == limit || looked_at == most {
            page.next = Some(sequence + 1);
            break;
        }
        match codec::decode(&bytes) {
            Ok(event) if filter.shows(&event) => page.events.push(event),
            Ok(_) => {}
            Err(error) => page.unreadable.push((sequence, error.to_string())),
        }
    }
    Ok(page)
}

#[async_trait]
impl History for SledStore {
    async fn load(&self, id: EventId, with_body: bool) -> Result<Option<StoredEvent>, StoreError> {
        let Some((sequence, record)) = self.lookup.event(id)? else { return Ok(None) };
        let body = if with_body { self.lookup.body(sequence, &record)? } else { None };
        Ok(Some(StoredEvent { record, body }))
    }

    async fn list(&self, filter: &Filter, before: Option<Sequence>, limit: usize) -> Result<Page, StoreError> {
        let (tree, filter) = (self.lookup.tree.clone(), filter.clone());
        aside(move || page(&tree, &filter, before, limit, LOOKED_AT)).await
    }

    async fn counts(&self) -> Result<Counts, StoreError> {
        loop {
            if let Some(counts) = self.write_in_turn(Write::Count).await? {
                return Ok(counts);
            }
        }
    }

    async fn prune(&self, moment: Timestamp, now: Timestamp, limit: usize) -> Result<Pruned, StoreError> {
        let sweep = *lock(&self.sweep);
        let (tree, waiting_to) = (self.lookup.tree.clone(), Arc::clone(&self.waiting_to));
        let Found { old, mut is_through, mut then } =
            aside(move || sweep.look(&tree, moment, now, limit, &waiting_to)).await?;
        let mut removed = 0;
        if !old.is_empty() {
            let outcome = self.write(|reply| Write::Prune(old, moment, reply)).await?;
            removed = outcome.count;
            if let Some(left) = outcome.left {
                (is_through, then) = (false, if is_through { sweep } else { then }.from(left));
            }
        }
        *lock(&self.sweep) = then;
        Ok(Pruned { removed, is_through })
    }

    async fn retention(&self) -> Result<Option<Retention>, StoreError> {
        self.lookup.retention()
    }

    async fn note_retention(&self, retention: Retention) -> Result<(), StoreError> {
        self.write(|reply| Write::Retention(retention, reply)).await
    }

    fn subscribe(&self, id: EventId) -> Subscription {
        self.kept.subscriptions.begin(id)
    }
}

#[async_trait]
impl Accounts for SledStore {
    async fn account_status(&self, integration: &str, account: &str) -> Result<Option<AccountStatus>, StoreError> {
        self.lookup.account_status(Name::of_account(integration, account))
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::{IN_PROGRESS, key};
    use super::*;
    use crate::event::EventRecord;
    use crate::store::conformance::{notification, wall};

    #[test]
    fn a_page_looks_at_a_bounded_number_of_records_and_the_next_goes_on_from_there() {
        let db = sled::Config::new().temporary(true).open().expect("opens");
        let tree: Tree = (*db).clone();
        for sequence in 0..100 {
            let mut record = EventRecord::new(&notification(&sequence.to_string()), wall(0));
            record.account = (sequence % 30 == 0).then(|| "acct".to_owned());
            let encoded = if sequence == 50 { b"torn".to_vec() } else { codec::encode(&record).expect("encodes") };
            tree.insert(key(IN_PROGRESS, sequence), encoded).expect("written");
        }
        let filter = Filter { account: Some("acct".to_owned()), ..Filter::default() };
        let (mut found, mut unreadable, mut pages, mut before) = (Vec::new(), 0, 0, None);
        loop {
            let page = page(&tree, &filter, before, 10, 20).expect("listed");
            found.extend(page.events.into_iter().map(|event| event.id));
            (unreadable, pages) = (unreadable + page.unreadable.len(), pages + 1);
            let Some(next) = page.next else { break };
            before = Some(next);
        }
        assert_eq!(found, ["90", "60", "30", "0"].map(|token| notification(token).id()));
        assert_eq!((unreadable, pages), (1, 5));
    }
}
