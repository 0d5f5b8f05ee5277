//! A load generator that costs little beside what it measures: one thread, raw HTTP/1.1, connections kept open.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

/// What a load came to.
pub struct Measured {
    pub requests: u64,
    pub elapsed: Duration,
    /// Latencies in microseconds.
    pub latencies: Histogram<u64>,
}

impl Measured {
    #[expect(clippy::cast_precision_loss, reason = "a count of requests is far below 2^52")]
    pub fn per_second(&self) -> f64 {
        self.requests as f64 / self.elapsed.as_secs_f64()
    }

    #[expect(clippy::cast_precision_loss, reason = "microseconds are far below 2^52")]
    pub fn quantile_ms(&self, quantile: f64) -> f64 {
        self.latencies.value_at_quantile(quantile) as f64 / 1000.0
    }
}

/// When a load ends.
#[derive(Clone, Copy)]
pub enum Until {
    Elapsed(Duration),
    Requests(u64),
}

/// How fast requests are made.
#[derive(Clone, Copy)]
pub enum Pace {
    /// Each connection sends its next request as soon as it has an answer.
    Closed,
    /// So many requests a second over all connections; a latency counts from when the request was due, so that a
    /// slow answer does not hide the requests that waited behind it.
    PerSecond(f64),
}

struct State {
    next: u64,
    latencies: Histogram<u64>,
}

/// Sends requests over `connections` connections and expects every answer to have `status`.
///
/// `request` writes the request with the given number into an empty buffer.
pub fn run(
    address: SocketAddr,
    connections: usize,
    until: Until,
    pace: Pace,
    status: u16,
    request: impl Fn(u64, &mut Vec<u8>) + 'static,
) -> Measured {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let state = Rc::new(RefCell::new(State {
        next: 0,
        latencies: Histogram::new_with_bounds(1, 600_000_000, 3).expect("bounds"),
    }));
    let request = Rc::new(request);
    let started = Instant::now();
    LocalSet::new().block_on(&runtime, async {
        let workers: Vec<_> = (0..connections)
            .map(|_| {
                tokio::task::spawn_local(work(
                    address,
                    until,
                    pace,
                    status,
                    Rc::clone(&state),
                    Rc::clone(&request),
                    started,
                ))
            })
            .collect();
        for worker in workers {
            worker.await.expect("a connection that works");
        }
    });
    let elapsed = started.elapsed();
    let state = Rc::into_inner(state).expect("all workers are gone").into_inner();
    Measured { requests: state.latencies.len(), elapsed, latencies: state.latencies }
}

async fn work(
    address: SocketAddr,
    until: Until,
    pace: Pace,
    status: u16,
    state: Rc<RefCell<State>>,
    request: Rc<impl Fn(u64, &mut Vec<u8>)>,
    started: Instant,
) {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    stream.set_nodelay(true).expect("nodelay");
    let expected = format!("HTTP/1.1 {status} ");
    let mut outgoing = Vec::with_capacity(2048);
    let mut incoming = vec![0; 16 << 10];
    loop {
        let number = {
            let mut state = state.borrow_mut();
            let is_over = match until {
                Until::Elapsed(limit) => started.elapsed() >= limit,
                Until::Requests(limit) => state.next >= limit,
            };
            if is_over {
                return;
            }
            state.next += 1;
            state.next - 1
        };
        let due = match pace {
            Pace::Closed => Instant::now(),
            #[expect(clippy::cast_precision_loss, reason = "a count of requests is far below 2^52")]
            Pace::PerSecond(rate) => {
                let due = started + Duration::from_secs_f64(number as f64 / rate);
                if matches!(until, Until::Elapsed(limit) if due >= started + limit) {
                    return;
                }
                tokio::time::sleep_until(due.into()).await;
                due
            }
        };
        outgoing.clear();
        request(number, &mut outgoing);
        stream.write_all(&outgoing).await.expect("sent");
        let mut filled = 0;
        let end = loop {
            let read = stream.read(&mut incoming[filled..]).await.expect("an answer");
            assert!(read > 0, "the connection was closed: {}", String::from_utf8_lossy(&incoming[..filled]));
            filled += read;
            if let Some(end) = end_of_answer(&incoming[..filled])
                && filled >= end
            {
                break end;
            }
        };
        assert!(
            incoming.starts_with(expected.as_bytes()),
            "not {status}: {}",
            String::from_utf8_lossy(&incoming[..end])
        );
        let latency = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
        state.borrow_mut().latencies.saturating_record(latency.max(1));
    }
}

/// Where an answer with a `Content-Length` ends, once its head is complete.
fn end_of_answer(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&bytes[..head]).ok()?;
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    Some(head + length.unwrap_or(0))
}

/// Writes a request. `headers` are whole lines.
pub fn request(out: &mut Vec<u8>, host: SocketAddr, method: &str, path: &str, headers: &str, body: &str) {
    use std::io::Write;
    let length = body.len();
    write!(out, "{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n{headers}\r\n{body}")
        .expect("memory is always written to");
}

/// Sends one request and returns the body of its answer.
pub fn ask(host: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(host).expect("connects");
    let mut out = Vec::new();
    request(&mut out, host, method, path, &format!("Connection: close\r\n{headers}"), body);
    stream.write_all(&out).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer.split_once("\r\n\r\n").expect("a head").1.to_owned()
}
