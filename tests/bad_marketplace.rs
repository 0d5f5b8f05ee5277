//! A marketplace on bad days, in simulated time: in the end every event is done once, or dead with a true reason.

use std::sync::Arc;
use std::time::Duration;

use doorbell::clock::{Clock, ManualClock, SystemClock, Timestamp};
use doorbell::event::EventRecord;
use doorbell::handler::Accept;
use doorbell::store::Filter;
use doorbell::store::memory::MemoryStore;

use crate::support::configuration;
use crate::support::marketplace::{Marketplace, Twist};
use crate::support::receiver::{Receiver, notify};

struct Day {
    marketplace: Marketplace,
    receiver: Receiver,
    clock: Arc<ManualClock>,
}

impl Day {
    async fn dawn(give_up_after: &str) -> Self {
        let marketplace = Marketplace::start().await;
        let clock = Arc::new(ManualClock::starting_at(SystemClock.now()));
        let configuration = configuration(&marketplace.base_url, "memory:").replace(
            "retry = [\"10ms\"]",
            &format!("retry = [\"1s\", \"5s\", \"30s\", \"2m\", \"10m\", \"30m\", \"1h\"]\ngive_up_after = \"{give_up_after}\""),
        );
        let receiver = Receiver::start_with(&configuration, Arc::new(MemoryStore::new()), Accept, clock.clone()).await;
        Self { marketplace, receiver, clock }
    }

    async fn notify(&self, events: usize) {
        let bearer = self.receiver.token().await;
        for number in 0..events {
            let url = self.marketplace.order(&number.to_string());
            let answer = notify(&self.receiver.client, &self.receiver.public, &bearer, "/create", &url).await;
            assert!(answer.status().is_success());
        }
    }

    async fn events(&self) -> Vec<EventRecord> {
        self.receiver.store.list(&Filter::default(), None, 1000).await.expect("listed").events
    }

    /// Lets time pass from one attempt to the next, until `end` or until nothing is left to do.
    async fn pass_until(&self, end: Option<Timestamp>) {
        loop {
            let now = self.clock.now();
            let unfinished: Vec<_> =
                self.events().await.into_iter().filter(|event| event.state.is_unfinished()).collect();
            let due: Vec<_> = unfinished.iter().filter(|event| event.due <= now).collect();
            if !due.is_empty() {
                self.until_tried(&due).await;
                continue;
            }
            let Some(next) = unfinished.iter().map(|event| event.due).min() else { return };
            if end.is_some_and(|end| next > end) {
                return;
            }
            self.clock.advance(next.since(now));
        }
    }

    /// Waits until each of these has ended or failed once more.
    async fn until_tried(&self, due: &[&EventRecord]) {
        let now = self.clock.now();
        let tried = async {
            for event in due {
                loop {
                    let known = self.receiver.store.load(event.id, false).await.expect("read").expect("there").record;
                    if known.due > now || !known.state.is_unfinished() {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
            }
        };
        tokio::time::timeout(crate::support::PATIENCE, tried).await.expect("what is due is tried");
    }
}

#[tokio::test]
async fn after_a_day_out_of_service_every_event_is_done_once() {
    let day = Day::dawn("48h").await;
    day.marketplace.with(|state| state.out_of_service = true);
    day.notify(25).await;
    let midnight = day.clock.now().plus(Duration::from_hours(24));
    day.pass_until(Some(midnight)).await;
    for event in day.events().await {
        assert!(event.state.is_unfinished() && event.attempts >= 24, "{event:?}");
        assert!(event.last_error.expect("an error").contains("503"));
    }
    day.marketplace.with(|state| state.out_of_service = false);
    day.pass_until(None).await;
    assert!(day.clock.now().since(midnight) <= Duration::from_hours(1), "the longest wait is an hour");
    for number in 0..25 {
        let seen = day.marketplace.seen(&number.to_string());
        assert_eq!((seen.taken.len(), seen.refused), (1, 0));
    }
}

#[tokio::test]
async fn a_marketplace_that_stays_away_leaves_dead_events_that_say_so_and_keep_their_history() {
    let day = Day::dawn("24h").await;
    day.marketplace.with(|state| state.out_of_service = true);
    day.notify(3).await;
    day.pass_until(None).await;
    for event in day.events().await {
        assert_eq!(event.state.as_str(), "dead");
        let reason = event.last_error.expect("a reason");
        assert!(reason.starts_with("given up after 1day: ") && reason.contains("503"), "{reason}");
        let steps = event.timeline.steps();
        assert_eq!(steps.len() + event.timeline.forgotten() as usize, event.attempts as usize);
        assert!(steps.len() <= 40 && steps.last().is_some_and(|step| step.step == "dead"), "{steps:?}");
    }
}

#[tokio::test]
async fn a_storm_of_401_takes_no_more_than_one_more_token_for_each_attempt() {
    let day = Day::dawn("24h").await;
    day.marketplace.with(|state| state.read_twists.extend(vec![Twist::Answer(401); 10]));
    day.notify(1).await;
    day.pass_until(None).await;
    let event = &day.events().await[0];
    assert_eq!((event.state.as_str(), event.attempts), ("done", 6), "each of five failed attempts was made twice");
    assert!(day.marketplace.with(|state| state.token_requests) <= 12);
    assert_eq!(day.marketplace.seen("0").taken.len(), 1);
}

#[tokio::test]
async fn whatever_goes_wrong_every_event_is_done_once_or_dead_with_a_true_reason() {
    const EVENTS: usize = 60;
    let bad = [
        Twist::Answer(500),
        Twist::Answer(502),
        Twist::Answer(503),
        Twist::Answer(400),
        Twist::Answer(401),
        Twist::RetryAfter(429, "900".into()),
        Twist::RetryAfter(503, "soon".into()),
        Twist::Redirect("http://127.0.0.1:9/".into()),
    ];
    let lost = [Twist::TakeAndAnswer(500), Twist::TakeAndAnswer(401), Twist::TakeAndTruncate];
    let seed = getrandom::u64().expect("randomness");
    let mut draw = seed;
    let mut next = |limit: usize| {
        draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(draw >> 33).expect("fits") % limit
    };
    let day = Day::dawn("10 days").await;
    day.marketplace.with(|state| {
        for _ in 0..200 {
            // Now and then there is no such event.
            state.read_twists.push_back(match next(40) {
                0 => Twist::Answer(404),
                1..5 => Twist::Truncated,
                _ => bad[next(bad.len())].clone(),
            });
            let is_lost = next(3) == 0;
            state.result_twists.push_back(if is_lost { lost[next(3)].clone() } else { bad[next(bad.len())].clone() });
            if next(4) == 0 {
                state.token_twists.push_back(bad[next(bad.len())].clone());
            }
        }
    });
    day.notify(EVENTS).await;
    day.pass_until(None).await;
    let (mut done, mut dead) = (0, 0);
    for event in day.events().await {
        let id = event.event_url.rsplit('/').next().expect("an id");
        let taken = day.marketplace.seen(id).taken;
        match event.state.as_str() {
            "done" => {
                assert_eq!(taken.len(), 1, "seed {seed}: {event:?}");
                done += 1;
            }
            "dead" => {
                let reason = event.last_error.clone().unwrap_or_default();
                assert!(taken.is_empty() && reason.contains("no such event"), "seed {seed}: {event:?}");
                dead += 1;
            }
            _ => panic!("seed {seed}: {event:?}"),
        }
    }
    assert!(done + dead == EVENTS && done > 0, "seed {seed}: {done} done, {dead} dead");
}

#[tokio::test]
async fn finished_events_go_when_they_are_older_than_they_are_kept() {
    let day = Day::dawn("24h").await;
    day.notify(5).await;
    day.pass_until(None).await;
    day.clock.advance(Duration::from_hours(399 * 24));
    assert_eq!(day.events().await.len(), 5);
    day.clock.advance(Duration::from_hours(2 * 24));
    let pruned = async {
        // The newest event keeps its place.
        while day.events().await.len() > 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::support::PATIENCE, pruned).await.expect("they go");
}
