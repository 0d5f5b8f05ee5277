//! What it costs to understand a body of the usual size.
//!
//! `cargo bench --bench bodies`: at most 20 µs for JSON and 60 µs for XML.

#![allow(missing_docs, reason = "criterion's macros write the functions")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use doorbell::event::Event;

const JSON: &[u8] = include_bytes!("../tests/fixtures/subscription-order.json");
const XML: &[u8] = include_bytes!("../tests/fixtures/subscription-order.xml");

fn bodies(criterion: &mut Criterion) {
    criterion.bench_function("an order in JSON", |bencher| bencher.iter(|| Event::read(black_box(JSON), None)));
    criterion.bench_function("an order in XML", |bencher| bencher.iter(|| Event::read(black_box(XML), None)));
}

criterion_group!(benches, bodies);
criterion_main!(benches);
