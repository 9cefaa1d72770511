//! The bytes of the proxy: requests as they come, answers as they should not.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// How a request's body is read.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Pace {
    Fast,
    Slow,
    /// As fast, and not to the end.
    Half,
}

/// A request as it came.
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) authorized: bool,
    length: Option<usize>,
    chunked: bool,
    head: Vec<u8>,
    body: Vec<u8>,
}

impl Request {
    /// Reads up to the empty line. `None` if there is none.
    pub(super) async fn head(connection: &mut BufReader<TcpStream>) -> Option<Self> {
        let mut request = Request {
            method: String::new(),
            path: String::new(),
            authorized: false,
            length: None,
            chunked: false,
            head: Vec::new(),
            body: Vec::new(),
        };
        loop {
            let mut line = Vec::new();
            connection.read_until(b'\n', &mut line).await.ok()?;
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if line.is_empty() {
                return None;
            }
            if request.method.is_empty() {
                let mut words = text.split(' ');
                request.method = words.next()?.to_owned();
                request.path = words.next()?.to_owned();
            } else if let Some((name, value)) = text.split_once(':') {
                match name.to_ascii_lowercase().as_str() {
                    "content-length" => request.length = value.trim().parse().ok(),
                    "transfer-encoding" => request.chunked = true,
                    "authorization" => request.authorized = true,
                    "connection" => continue,
                    _ => {}
                }
            } else {
                request.head.extend_from_slice(b"connection: close\r\n\r\n");
                return Some(request);
            }
            request.head.extend_from_slice(&line);
        }
    }

    /// Reads the body. `None` if the client has gone away in it.
    pub(super) async fn body(&mut self, connection: &mut BufReader<TcpStream>, pace: Pace) -> Option<()> {
        if self.chunked {
            while !self.body.ends_with(b"0\r\n\r\n") {
                if connection.read_until(b'\n', &mut self.body).await.ok()? == 0 {
                    return None;
                }
            }
            return Some(());
        }
        let mut left = self.length.unwrap_or(0);
        if pace == Pace::Half {
            left /= 2;
        }
        while left > 0 {
            let mut piece = vec![0; left.min(if pace == Pace::Slow { 512 } else { 65536 })];
            let length = connection.read(&mut piece).await.ok()?;
            if length == 0 {
                return None;
            }
            left -= length;
            self.body.extend_from_slice(&piece[..length]);
            if pace == Pace::Slow {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        Some(())
    }

    /// What the server answers; nothing if it does not.
    pub(super) async fn at(&self, server: SocketAddr) -> Vec<u8> {
        let mut answer = Vec::new();
        let Ok(mut upstream) = TcpStream::connect(server).await else {
            return answer;
        };
        let sent = async {
            upstream.write_all(&self.head).await?;
            upstream.write_all(&self.body).await?;
            upstream.read_to_end(&mut answer).await
        };
        let _ = sent.await;
        answer
    }
}

/// Closes a connection so that the other side is told of a reset.
pub(super) fn reset(connection: TcpStream) {
    let _ = connection.set_zero_linger();
}

/// An answer in the services' form.
pub(super) fn answer(status: u16, headers: &str, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status} As asked\r\ncontent-type: application/json\r\nconnection: close\r\n{headers}content-length: \
         {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// What somebody in between says to people.
pub(super) fn page() -> Vec<u8> {
    let body = "<!DOCTYPE html><title>Welcome</title><p>Accept our conditions to go on.</p>";
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// An answer without its `Date`.
pub(super) fn undated(answer: &[u8]) -> Vec<u8> {
    let line = answer
        .split_inclusive(|byte| *byte == b'\n')
        .find(|line| line.to_ascii_lowercase().starts_with(b"date:"));
    match line {
        Some(line) => {
            let at = line.as_ptr().addr() - answer.as_ptr().addr();
            [&answer[..at], &answer[at + line.len()..]].concat()
        }
        None => answer.to_vec(),
    }
}

/// The head, and half of the body; half of the head if there is no body.
pub(super) fn first_half(answer: &[u8]) -> &[u8] {
    let head = answer.windows(4).position(|part| part == b"\r\n\r\n");
    let head = head.map_or(0, |at| at + 4);
    if head == answer.len() {
        &answer[..head / 2]
    } else {
        &answer[..head + (answer.len() - head) / 2]
    }
}

pub(super) async fn byte_by_byte(client: &mut TcpStream, answer: &[u8]) -> io::Result<()> {
    for byte in answer {
        client.write_all(std::slice::from_ref(byte)).await?;
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// Some bytes of many that are announced, for longer than any call of the tests waits.
pub(super) async fn trickle(client: &mut TcpStream) -> io::Result<()> {
    client
        .write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 100000\r\n\r\n")
        .await?;
    for _ in 0..400 {
        client.write_all(b" ").await?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

pub(super) async fn endless_body(client: &mut TcpStream) -> io::Result<()> {
    client
        .write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/json\r\n\r\n[")
        .await?;
    let piece = vec![b'['; 256 * 1024];
    loop {
        client.write_all(&piece).await?;
    }
}

pub(super) async fn endless_header(client: &mut TcpStream) -> io::Result<()> {
    client.write_all(b"HTTP/1.1 200 OK\r\nx-endless: ").await?;
    let piece = vec![b'x'; 64 * 1024];
    loop {
        client.write_all(&piece).await?;
    }
}
