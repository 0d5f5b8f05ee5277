//! The bytes of a connection, counted as they are read.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_web::rt::net::TcpStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connection::{Budget, Connection};
use super::excess::Excess;

/// How much of what a client still sends is thrown away after the last answer, so that it gets to read that.
const LINGER_BYTES: usize = 1 << 20;

/// A socket that stops reading where the connection's budget ends, and ends where its deadline does.
pub(super) struct GuardedStream {
    socket: TcpStream,
    pub(super) connection: Rc<Connection>,
    /// How many more bytes are thrown away at the end.
    linger_bytes: usize,
}

impl GuardedStream {
    pub(super) fn new(socket: TcpStream, connection: Rc<Connection>) -> Self {
        Self { socket, connection, linger_bytes: LINGER_BYTES }
    }

    /// Tells the client why its connection ends, if it is there to listen.
    fn say(&self, excess: Excess) {
        let status = excess.status_code();
        let body = format!("{excess}\n");
        let answer = format!(
            "HTTP/1.1 {} {}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            status.as_u16(),
            status.canonical_reason().unwrap_or_default(),
            body.len()
        );
        // Whoever left no room for so little is told nothing.
        let _ = self.socket.try_write(answer.as_bytes());
    }
}

impl AsyncRead for GuardedStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        match this.connection.budget() {
            Budget::Bytes(bytes) if bytes >= buffer.remaining() => {
                std::task::ready!(Pin::new(&mut this.socket).poll_read(cx, buffer))?;
            }
            Budget::Bytes(bytes) => {
                let mut part = ReadBuf::new(buffer.initialize_unfilled_to(bytes));
                std::task::ready!(Pin::new(&mut this.socket).poll_read(cx, &mut part))?;
                let read = part.filled().len();
                buffer.advance(read);
            }
            Budget::Again => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Budget::Later => return Poll::Pending,
            Budget::End => {
                if let Some(excess) = this.connection.take_farewell() {
                    this.say(excess);
                }
                return Poll::Ready(Ok(()));
            }
        }
        let read = &buffer.filled()[before..];
        if read.is_empty() {
            this.connection.reached_end();
        } else {
            this.connection.read(read);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for GuardedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, bytes);
        if written.is_pending() {
            self.connection.is_blocked();
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.connection.has_written_all() {
            cx.waker().wake_by_ref();
        }
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        std::task::ready!(Pin::new(&mut this.socket).poll_shutdown(cx))?;
        if !this.connection.lingers() {
            return Poll::Ready(Ok(()));
        }
        let mut thrown_away = [0; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut thrown_away);
            match std::task::ready!(Pin::new(&mut this.socket).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() && this.linger_bytes > 0 => {
                    this.linger_bytes = this.linger_bytes.saturating_sub(buffer.filled().len());
                }
                _ => return Poll::Ready(Ok(())),
            }
        }
    }
}
