//! Displays: what a sandbox shows, as streams of the RFB protocol (VNC).

use std::fs::File;
use std::io::{self, Read, Write};

use super::together::all;
use super::{Bench, Failure, Need, Running, case_list, purpose};
use crate::engine::{Display, feature};
use crate::error::ErrorKind;
use crate::io::Handle;
use crate::runtime::blocking;

const DISPLAYS: Need = Need::Feature(feature::DISPLAYS);
const SHOWS: Need = Need::Payload(&purpose::SHOW_DISPLAY);

case_list! {
    "displays/listed", "The displays that are listed are those of the check file, each once", [DISPLAYS, SHOWS], listed;
    "displays/handshake", "Each display speaks RFB, and has the size that is listed", [DISPLAYS, SHOWS], handshakes;
    "displays/picture", "A display sends a picture when it is asked for one", [DISPLAYS, SHOWS], picture;
    "displays/in-parallel", "A display can be watched by several at one time", [DISPLAYS, SHOWS], in_parallel;
    "displays/unknown", "A display that there is not is NoSuchDisplay", [DISPLAYS, SHOWS], unknown;
    "displays/kill", "A display is open until the sandbox is killed", [DISPLAYS, SHOWS, Need::Feature(feature::KILL)], kill;
    "displays/abort", "A display is open until the sandbox is aborted", [DISPLAYS, SHOWS], abort;
    "displays/nonsense", "A viewer that sends nonsense loses its own stream only", [DISPLAYS, SHOWS], nonsense;
}

/// What a server says of itself.
struct Screen {
    stream: File,
    width: u16,
    height: u16,
}

fn invalid(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

fn bytes<const N: usize>(stream: &mut File) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn skip(stream: &mut File, count: u64) -> io::Result<()> {
    let skipped = io::copy(&mut stream.take(count), &mut io::sink())?;
    if skipped < count {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

/// The beginning of RFB 3.3, 3.7 and 3.8 as its specification, RFC 6143, has it, without a password.
fn handshake(mut stream: File) -> io::Result<Screen> {
    let version: [u8; 12] = bytes(&mut stream)?;
    let minor = match &version {
        b"RFB 003.003\n" => 3,
        b"RFB 003.007\n" => 7,
        other if other.starts_with(b"RFB 003.") => 8,
        other => return Err(invalid(format!("it begins with {}", super::show(other)))),
    };
    stream.write_all(format!("RFB 003.{minor:03}\n").as_bytes())?;
    if minor == 3 {
        if u32::from_be_bytes(bytes(&mut stream)?) != 1 {
            return Err(invalid("it wants a password"));
        }
    } else {
        let [count] = bytes(&mut stream)?;
        let mut types = vec![0; count.into()];
        stream.read_exact(&mut types)?;
        if !types.contains(&1) {
            return Err(invalid(format!(
                "it has no security type without a password: {types:?}"
            )));
        }
        stream.write_all(&[1])?;
        if minor == 8 && u32::from_be_bytes(bytes(&mut stream)?) != 0 {
            return Err(invalid("it refuses the security type that it has offered"));
        }
    }
    // Others may watch, too.
    stream.write_all(&[1])?;
    let width = u16::from_be_bytes(bytes(&mut stream)?);
    let height = u16::from_be_bytes(bytes(&mut stream)?);
    let _pixel_format: [u8; 16] = bytes(&mut stream)?;
    let name = u32::from_be_bytes(bytes(&mut stream)?);
    skip(&mut stream, name.into())?;
    Ok(Screen {
        stream,
        width,
        height,
    })
}

/// Asks for the whole screen in raw pixels of 32 bits, and reads the first rectangle that comes.
fn first_rectangle(screen: &mut Screen) -> io::Result<(u16, u16)> {
    let stream = &mut screen.stream;
    stream.write_all(&[
        0, 0, 0, 0, 32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0,
    ])?;
    // One encoding: raw.
    stream.write_all(&[2, 0, 0, 1, 0, 0, 0, 0])?;
    let mut request = vec![3, 0, 0, 0, 0, 0];
    request.extend(screen.width.to_be_bytes());
    request.extend(screen.height.to_be_bytes());
    stream.write_all(&request)?;
    loop {
        let [kind] = bytes(stream)?;
        match kind {
            0 => break,
            // A bell.
            2 => {}
            // Text that was cut.
            3 => {
                let _: [u8; 3] = bytes(stream)?;
                let length = u32::from_be_bytes(bytes(stream)?);
                skip(stream, length.into())?;
            }
            other => return Err(invalid(format!("it sends a message of the kind {other}"))),
        }
    }
    let [_, high, low] = bytes(stream)?;
    if (high, low) == (0, 0) {
        return Err(invalid("it sends an update without a rectangle"));
    }
    let [_, _, _, _] = bytes(stream)?;
    let width = u16::from_be_bytes(bytes(stream)?);
    let height = u16::from_be_bytes(bytes(stream)?);
    let encoding = i32::from_be_bytes(bytes(stream)?);
    if encoding != 0 {
        return Err(invalid(format!(
            "it sends pixels in the encoding {encoding}, which was not asked for"
        )));
    }
    skip(stream, u64::from(width) * u64::from(height) * 4)?;
    Ok((width, height))
}

async fn showing(bench: &Bench) -> Result<Running<'_>, Failure> {
    bench.start(&purpose::SHOW_DISPLAY, &[]).await
}

async fn list(bench: &Bench, running: &Running<'_>) -> Result<Vec<Display>, Failure> {
    let listed = bench
        .ok("Sandbox.list_displays", running.sandbox.list_displays())
        .await?;
    Failure::unless(!listed.is_empty(), || "no display is listed".to_owned())?;
    Ok(listed)
}

async fn open(bench: &Bench, running: &Running<'_>, name: &str) -> Result<Handle, Failure> {
    let what = format!("Sandbox.open_display({name:?})");
    bench.ok(&what, running.sandbox.open_display(name.into())).await
}

async fn watch(bench: &Bench, running: &Running<'_>, name: &str) -> Result<Screen, Failure> {
    let handle = open(bench, running, name).await?;
    let shaken = blocking(move || Ok(handshake(handle.into_file())));
    let screen = bench.ok(&format!("the handshake with {name:?}"), shaken).await?;
    screen.map_err(|error| Failure::new(format!("the display {name:?} does not speak RFB: {error}")))
}

async fn first(bench: &Bench, running: &Running<'_>) -> Result<String, Failure> {
    Ok(list(bench, running).await?.swap_remove(0).name)
}

async fn listed(bench: &Bench) -> Result<(), Failure> {
    let running = showing(bench).await?;
    let sorted = |displays: &[Display]| {
        let mut names: Vec<String> = displays.iter().map(|display| display.name.clone()).collect();
        names.sort();
        names
    };
    let listed = list(bench, &running).await?;
    let expected = &bench.drive().displays;
    Failure::unless_equal("the names of the displays", sorted(&listed), sorted(expected))?;
    for display in expected {
        let Some(seen) = listed.iter().find(|seen| seen.name == display.name) else {
            continue;
        };
        if !display.description.is_empty() {
            Failure::unless_equal("a display's description", &seen.description, &display.description)?;
        }
        for (what, seen, expected) in [
            ("a display's width", seen.width, display.width),
            ("a display's height", seen.height, display.height),
        ] {
            Failure::unless_equal(what, if expected == 0 { 0 } else { seen }, expected)?;
        }
    }
    running.abort().await
}

async fn handshakes(bench: &Bench) -> Result<(), Failure> {
    let running = showing(bench).await?;
    for display in list(bench, &running).await? {
        let screen = watch(bench, &running, &display.name).await?;
        let size = (u32::from(screen.width), u32::from(screen.height));
        // It may have changed meanwhile.
        let listed = list(bench, &running).await?;
        let now = listed.iter().find(|now| now.name == display.name);
        let sizes: Vec<(u32, u32)> = now
            .into_iter()
            .chain([&display])
            .map(|display| (display.width, display.height))
            .collect();
        Failure::unless(sizes.contains(&size) || sizes.contains(&(0, 0)), || {
            format!(
                "the size of the display {:?}: listed {sizes:?}, seen {size:?}",
                display.name
            )
        })?;
    }
    running.abort().await
}

async fn picture(bench: &Bench) -> Result<(), Failure> {
    let running = showing(bench).await?;
    let name = first(bench, &running).await?;
    let mut screen = watch(bench, &running, &name).await?;
    let read = blocking(move || {
        let rectangle = first_rectangle(&mut screen);
        Ok((rectangle, screen))
    });
    let (rectangle, screen) = bench.ok("reading a picture", read).await?;
    let (width, height) =
        rectangle.map_err(|error| Failure::new(format!("the display {name:?} sends no picture: {error}")))?;
    let fits = (1..=screen.width).contains(&width) && (1..=screen.height).contains(&height);
    Failure::unless(fits, || {
        format!(
            "a display of {} x {} sends a rectangle of {width} x {height}",
            screen.width, screen.height
        )
    })?;
    running.abort().await
}

async fn in_parallel(bench: &Bench) -> Result<(), Failure> {
    let running = showing(bench).await?;
    let name = first(bench, &running).await?;
    let watching = all((0..3).map(|_| watch(bench, &running, &name))).await?;
    drop(watching);
    // Those who have left are nobody's trouble.
    watch(bench, &running, &name).await.map(drop)?;
    running.abort().await
}

async fn unknown(bench: &Bench) -> Result<(), Failure> {
    let running = showing(bench).await?;
    for name in ["no-such-display-of-check", "", "../display"] {
        bench
            .refused(
                &format!("Sandbox.open_display({name:?})"),
                &[ErrorKind::NoSuchDisplay],
                running.sandbox.open_display(name.into()),
            )
            .await?;
    }
    running.abort().await
}

/// Nothing more comes from it, now or after a while.
async fn is_closed(bench: &Bench, mut screen: Screen, when: &str) -> Result<(), Failure> {
    // A server that goes away may reset the connection.
    let end = blocking(move || {
        drop(io::copy(&mut screen.stream, &mut io::sink()));
        Ok(())
    });
    bench.ok(&format!("the end of a display {when}"), end).await
}

async fn kill(bench: &Bench) -> Result<(), Failure> {
    let running = showing(bench).await?;
    let name = first(bench, &running).await?;
    let screen = watch(bench, &running, &name).await?;
    running.kill().await?;
    is_closed(bench, screen, "after a kill").await?;
    let ended = running.wait().await?;
    ended.expect_success(false)?;
    ended.finish().await.map(drop)
}

async fn abort(bench: &Bench) -> Result<(), Failure> {
    let running = showing(bench).await?;
    let name = first(bench, &running).await?;
    let screen = watch(bench, &running, &name).await?;
    running.abort().await?;
    is_closed(bench, screen, "after an abort").await
}

async fn nonsense(bench: &Bench) -> Result<(), Failure> {
    let running = showing(bench).await?;
    let name = first(bench, &running).await?;
    let handle = open(bench, &running, &name).await?;
    let talk = blocking(move || {
        let mut stream = handle.into_file();
        // The server may hang up in the middle of it.
        drop(stream.write_all(&[b'x'; 4096]));
        drop(io::copy(&mut stream, &mut io::sink()));
        Ok(())
    });
    bench
        .ok("the end of a display that was sent nonsense", talk)
        .await?;
    watch(bench, &running, &name).await.map(drop)?;
    running.abort().await
}
