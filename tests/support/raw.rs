//! Requests byte by byte, as no client library would send them.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

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

/// As [`connect`], from another address of this machine.
pub async fn connect_from(host: &str, base: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(format!("{host}:0").parse().expect("an address")).expect("bound");
    let address = base.trim_start_matches("http://").parse().expect("an address");
    socket.connect(address).await.expect("connects")
}

/// Sends a request without a body, and reads its answer; the connection stays.
pub async fn ask(connection: &mut TcpStream, path: &str) -> (u16, String) {
    connection.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.expect("sent");
    next_answer(connection).await
}

/// Reads one answer that says how long it is: its status and its head.
pub async fn next_answer(connection: &mut TcpStream) -> (u16, String) {
    let read = async {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(connection.read_u8().await.unwrap_or_else(|error| panic!("{error} after {head:?}")));
        }
        let head = String::from_utf8(head).expect("text").to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
        connection.read_exact(&mut vec![0; length.unwrap_or(0)]).await.expect("a body");
        head
    };
    let head = tokio::time::timeout(PATIENCE, read).await.expect("an answer in time");
    (head[9..12].parse().expect("a status"), head)
}

/// Reads until the other side closes or resets the connection: what came before.
pub async fn until_closed(connection: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, connection.read_to_end(&mut bytes)).await.expect("it is closed");
    String::from_utf8_lossy(&bytes).into_owned()
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
