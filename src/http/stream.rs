//! The bytes of a connection, counted as they are read.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_web::rt::net::TcpStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connection::{Budget, Connection};
use super::farewell::{Bodiless, Farewell};

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
    fn say(&self, farewell: Farewell) {
        let answer = self.connection.wording().answer(farewell);
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
                if let Some(farewell) = this.connection.take_farewell() {
                    this.say(farewell);
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
        if self.connection.is_muted() {
            return Poll::Ready(Ok(bytes.len()));
        }
        // The protocol answers what it cannot read without a word; what stands before that is written first.
        let bytes = match Bodiless::find(bytes) {
            Some(Bodiless { start: 0, is_too_large }) => {
                if let Some(farewell) = self.connection.fails_to_parse(is_too_large) {
                    self.say(farewell);
                }
                return Poll::Ready(Ok(bytes.len()));
            }
            Some(Bodiless { start, .. }) => &bytes[..start],
            None => bytes,
        };
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
