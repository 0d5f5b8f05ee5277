//! Requests byte by byte, as no client library would send them.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::PATIENCE;

/// Sends `request` to the listener at `base` and reads until it closes: status, head and body of the answer.
pub async fn exchange(base: &str, request: &[u8]) -> (u16, String, String) {
    let mut connection = connect(base).await;
    // A listener may answer and close before it has read everything.
    let _ = connection.write_all(request).await;
    answer(&mut connection).await
}

pub async fn connect(base: &str) -> TcpStream {
    TcpStream::connect(base.trim_start_matches("http://")).await.expect("connects")
}

/// Reads until the other side closes.
pub async fn answer(connection: &mut TcpStream) -> (u16, String, String) {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(PATIENCE, connection.read_to_end(&mut bytes)).await.expect("an answer in time");
    assert!(read.is_ok() || !bytes.is_empty(), "{read:?}");
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("no answer: {text:?}")), head.to_owned(), body.to_owned())
}
