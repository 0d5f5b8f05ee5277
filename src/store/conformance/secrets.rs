//! What is kept for authentication.

use secrecy::{ExposeSecret, SecretSlice};

use super::{both, wall};
use crate::clock::Timestamp;
use crate::store::{EventStore, StoreError};

pub(in crate::store) async fn a_secret_is_kept_from_the_first_time_on(store: &dyn EventStore) {
    assert!(store.get("key").await.expect("read").is_none());
    let first = store.create("key", vec![1, 2, 3].into()).await.expect("kept");
    let second = store.create("key", vec![4, 5, 6].into()).await.expect("read");
    assert_eq!(first.expose_secret(), second.expose_secret());
    assert_eq!(first.expose_secret(), [1, 2, 3]);
    assert_eq!(store.get("key").await.expect("read").expect("kept").expose_secret(), [1, 2, 3]);
}

pub(in crate::store) async fn a_secret_is_replaced_by_whoever_knows_the_one_that_is_kept(store: &dyn EventStore) {
    let first = store.create("key", vec![1].into()).await.expect("kept");
    let (second, third): (SecretSlice<u8>, SecretSlice<u8>) = (vec![2].into(), vec![3].into());
    let replaced = both(store.replace("key", &first, second.clone()), store.replace("key", &first, third));
    let (one, other) = replaced.await;
    assert!(one.expect("told") ^ other.expect("told"), "only one of two knows what is kept by then");
    let kept = store.create("key", vec![9].into()).await.expect("read");
    assert_ne!(kept.expose_secret(), first.expose_secret());
    assert!(!store.replace("key", &first, vec![4].into()).await.expect("told"));
    assert!(!store.replace("unknown", &first, vec![4].into()).await.expect("told"));
}

/// Whether a nonce is used for the first time.
async fn use_nonce(
    store: &dyn EventStore,
    nonce: [u8; 16],
    until: Timestamp,
    now: Timestamp,
) -> Result<bool, StoreError> {
    store.put(nonce, until, Vec::new().into(), now).await
}

pub(in crate::store) async fn a_nonce_is_used_once_however_many_use_it_at_once(store: &dyn EventStore) {
    let until = wall(600);
    let (one, other) = both(use_nonce(store, [1; 16], until, wall(0)), use_nonce(store, [1; 16], until, wall(0))).await;
    assert!(one.expect("told") ^ other.expect("told"));
    assert!(!use_nonce(store, [1; 16], until, wall(599)).await.expect("told"));
    assert!(use_nonce(store, [2; 16], until, wall(0)).await.expect("told"));
}

pub(in crate::store) async fn a_nonce_is_forgotten_once_its_time_is_over(store: &dyn EventStore) {
    assert!(use_nonce(store, [1; 16], wall(10), wall(0)).await.expect("told"));
    assert!(use_nonce(store, [2; 16], wall(700), wall(100)).await.expect("told"));
    assert!(use_nonce(store, [1; 16], wall(10), wall(100)).await.expect("told"), "what is over is there no more");
    assert!(!use_nonce(store, [2; 16], wall(700), wall(100)).await.expect("told"));
}

pub(in crate::store) async fn what_is_kept_for_a_time_is_taken_once_and_not_after_it(store: &dyn EventStore) {
    let (name, until) = ([7; 16], wall(60));
    let taken = async |now| {
        let taken = store.take(name, until, wall(now)).await.expect("told");
        taken.map(|secret| secret.expose_secret().to_vec())
    };
    assert_eq!(taken(0).await, None);
    assert!(store.put(name, until, vec![1, 2].into(), wall(0)).await.expect("told"));
    let (one, other) = both(taken(1), taken(1)).await;
    assert_eq!(
        [one.clone(), other.clone()].into_iter().flatten().collect::<Vec<_>>(),
        [vec![1, 2]],
        "{one:?} {other:?}"
    );
    assert!(store.put(name, until, vec![3].into(), wall(1)).await.expect("told"), "it is there no more");
    assert_eq!(taken(60).await, None, "its time is over");
}

pub(in crate::store) async fn what_is_too_long_to_be_kept_for_a_time_is_refused(store: &dyn EventStore) {
    let put = async |bytes| store.put([7; 16], wall(60), vec![0; bytes].into(), wall(0)).await;
    assert_eq!(put(4097).await, Err(StoreError::TooLong(4097)));
    assert_eq!(put(4096).await, Ok(true));
}
