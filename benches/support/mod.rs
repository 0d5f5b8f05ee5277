//! What the benchmarks share: a load generator, and processes whose memory can be read.

#![allow(dead_code, reason = "each benchmark uses its part")]

pub mod load;
pub mod marketplace;
pub mod process;

/// The middle of some measurements.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A number from the environment.
pub fn variable<T: std::str::FromStr>(name: &str, otherwise: T) -> T {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// Bytes of all files below a directory.
pub fn bytes_below(directory: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry"));
    entries
        .map(|entry| match entry.metadata().expect("metadata") {
            file if file.is_dir() => bytes_below(&entry.path()),
            file => file.len(),
        })
        .sum()
}
