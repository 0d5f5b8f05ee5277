//! Copies out of a store and into it.

use super::{at, claim, dead, fetched, id, notification, proceed};
use crate::event::{AccountStatus, EventResult, ExtractedFields, State};
use crate::store::memory::MemoryStore;
use crate::store::{Accounts, Advanced, Completion, EventStore, Progress, Recorded, StoredEvent};

async fn exported(store: &dyn EventStore, limit: usize) -> Vec<StoredEvent> {
    let mut events = Vec::new();
    let mut place = Some(0);
    while let Some(from) = place {
        let page = store.export(from, limit).await.expect("the store answers");
        assert!(page.events.len() <= limit && page.unreadable.is_empty());
        events.extend(page.events);
        place = page.next;
    }
    events
}

async fn history(store: &dyn EventStore, events: usize) {
    for number in 0..events {
        store.record(&notification(&number.to_string()), at(0)).await.expect("recorded");
    }
    for number in 0..events * 2 / 3 {
        let claimed = claim(store, at(1)).await.expect("an event");
        let account = format!("account-{}", number % 7);
        let Progress::Fetched { fields, body } = fetched(Some(&account), format!("body {number}").as_bytes()) else {
            unreachable!("it is one")
        };
        let fields = ExtractedFields { status_on_success: Some(AccountStatus::Active), ..fields };
        let step = Progress::Fetched { fields, body };
        let Advanced::Proceed(claimed) = store.advance(claimed, &step, at(1)).await.expect("taken") else {
            panic!("nothing else of the account is at work")
        };
        match number % 4 {
            0 => store.settle(claimed, &Completion::Deferred, at(2)).await.expect("settled"),
            1 => store.settle(claimed, &dead("broken"), at(2)).await.expect("settled"),
            _ => {
                let result = EventResult::success("well done");
                let claimed = proceed(store, claimed, &Progress::Handled(result), at(2)).await;
                store.settle(claimed, &Completion::Done(None), at(3)).await.expect("settled");
            }
        }
    }
}

pub(in crate::store) async fn an_export_has_every_event_once_in_the_order_of_receipt(store: &dyn EventStore) {
    assert_eq!(exported(store, 10).await, []);
    history(store, 300).await;
    for limit in [1, 7, 1000] {
        let events = exported(store, limit).await;
        let ids: Vec<_> = events.iter().map(|event| event.record.id).collect();
        assert_eq!(ids, (0..300).map(|number| id(&number.to_string())).collect::<Vec<_>>(), "in pages of {limit}");
        assert_eq!(events.iter().filter(|event| event.body.is_some()).count(), 200);
        assert_eq!(events[5].body.as_deref(), Some(b"body 5".as_slice()));
    }
}

pub(in crate::store) async fn an_import_leaves_what_an_export_had_and_can_be_done_again(store: &dyn EventStore) {
    let source = MemoryStore::new();
    history(&source, 30).await;
    let events = exported(&source, 1000).await;
    // Cut off once, and begun again.
    assert_eq!(store.import(events[..10].to_vec(), at(9)).await, Ok(10));
    assert_eq!(store.import(events.clone(), at(9)).await, Ok(20));
    assert_eq!(store.import(events.clone(), at(9)).await, Ok(0));
    assert_eq!(exported(store, 1000).await, events);
    for event in &events {
        assert_eq!(store.load(event.record.id, true).await, Ok(Some(event.clone())));
    }
    for account in 0..7 {
        let account = format!("account-{account}");
        let status = source.account_status("default", &account).await;
        assert_eq!(store.account_status("default", &account).await, status, "{account}");
    }
    let Ok(Recorded::Duplicate(known)) = store.record(&notification("2"), at(10)).await else { panic!("known") };
    assert_eq!(known.state, State::Done, "what was done is not run again");
    assert_eq!(store.record(&notification("new"), at(10)).await, Ok(Recorded::New));
    let next = claim(store, at(10)).await.expect("one that was unfinished");
    assert_eq!(next.event().id, id("20"), "the one that was recorded first");
    assert_eq!(exported(store, 1000).await.last().map(|event| event.record.id), Some(id("new")));
}
