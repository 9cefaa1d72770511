//! The display: a server of the RFB protocol (VNC), version 3.8, that shows one colour.

use std::io;

use tcw_abi::engine::Display;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

pub(crate) const NAME: &str = "MockDisplay";
const WIDTH: u16 = 480;
const HEIGHT: u16 = 640;

pub(crate) fn display() -> Display {
    Display {
        name: NAME.into(),
        description: "A screen of one colour".into(),
        width: WIDTH.into(),
        height: HEIGHT.into(),
    }
}

/// 32 bits a pixel, little endian, eight bits for each of red, green and blue.
const PIXEL_FORMAT: [u8; 16] = [32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0];

/// Serves one client until it leaves or misbehaves. Both are the end, nothing more.
pub(crate) async fn serve(mut stream: UnixStream) {
    let _: io::Result<()> = async {
        handshake(&mut stream).await?;
        loop {
            message(&mut stream).await?;
        }
    }
    .await;
}

async fn handshake(stream: &mut UnixStream) -> io::Result<()> {
    stream.write_all(b"RFB 003.008\n").await?;
    let mut version = [0_u8; 12];
    stream.read_exact(&mut version).await?;
    if !version.starts_with(b"RFB 003.") {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // One security type: none.
    stream.write_all(&[1, 1]).await?;
    if stream.read_u8().await? != 1 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    stream.write_u32(0).await?;
    // Whether the client shares the display makes no difference.
    stream.read_u8().await?;
    stream.write_u16(WIDTH).await?;
    stream.write_u16(HEIGHT).await?;
    stream.write_all(&PIXEL_FORMAT).await?;
    stream.write_u32(NAME.len() as u32).await?;
    stream.write_all(NAME.as_bytes()).await
}

async fn message(stream: &mut UnixStream) -> io::Result<()> {
    match stream.read_u8().await? {
        // The pixel format that the client would like. This display has one.
        0 => skip(stream, 19).await,
        // Encodings: every client takes raw pixels.
        2 => {
            skip(stream, 1).await?;
            let count = stream.read_u16().await?;
            skip(stream, u64::from(count) * 4).await
        }
        3 => {
            let incremental = stream.read_u8().await? != 0;
            skip(stream, 8).await?;
            // Nothing ever changes, so only a whole picture is worth an answer.
            if incremental {
                Ok(())
            } else {
                picture(stream).await
            }
        }
        // A key, the pointer, text.
        4 => skip(stream, 7).await,
        5 => skip(stream, 5).await,
        6 => {
            skip(stream, 3).await?;
            let length = stream.read_u32().await?;
            skip(stream, length.into()).await
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

async fn picture(stream: &mut UnixStream) -> io::Result<()> {
    // An update of one rectangle, the whole screen, in raw pixels.
    stream.write_all(&[0, 0, 0, 1, 0, 0, 0, 0]).await?;
    stream.write_u16(WIDTH).await?;
    stream.write_u16(HEIGHT).await?;
    stream.write_i32(0).await?;
    let row = [0x60, 0x80, 0x20, 0].repeat(WIDTH.into());
    for _ in 0..HEIGHT {
        stream.write_all(&row).await?;
    }
    Ok(())
}

async fn skip(stream: &mut UnixStream, count: u64) -> io::Result<()> {
    let skipped = tokio::io::copy(&mut stream.take(count), &mut tokio::io::sink()).await?;
    if skipped < count {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}
