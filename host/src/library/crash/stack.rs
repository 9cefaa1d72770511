//! Return addresses on a stack that may be damaged: a bounded search that touches no memory by itself.
#![expect(
    unsafe_code,
    reason = "memory of which nothing is known is read through the kernel"
)]

use std::ffi::c_int;

use super::text::{self, Who};

/// As much of the stack is looked at, in bytes, from its end on.
const DEPTH: usize = 128 << 10;

/// Words that are read at one time.
const CHUNK: usize = 64;

const WORD: usize = size_of::<usize>();

/// The owner of the innermost frame from `stack_pointer` up that satisfies `counts`. Frames of other code, such as the C
/// library's, are passed over; words that only look like a return address are as far as the instruction before them can
/// tell. `pipe` is one of our own, empty and non-blocking.
pub(super) fn innermost(
    stack_pointer: usize,
    pipe: (c_int, c_int),
    counts: impl Fn(&Who) -> bool,
) -> Option<&'static Who> {
    let mut at = stack_pointer & !(WORD - 1);
    let end = at.saturating_add(DEPTH);
    while at < end {
        let mut words = [0; CHUNK];
        let read = read(at, &mut words, pipe);
        for word in &words[..read] {
            if let Some((who, start)) = text::owner(*word)
                && counts(who)
                && follows_a_call(*word, start)
            {
                return Some(who);
            }
        }
        if read < CHUNK {
            return None;
        }
        at += CHUNK * WORD;
    }
    None
}

/// Copies words from `address` on, as many as there are before memory that cannot be read: the kernel says so where this
/// process would crash again.
fn read(address: usize, words: &mut [usize; CHUNK], (from, to): (c_int, c_int)) -> usize {
    let bytes = CHUNK * WORD;
    // SAFETY: `write` does not trust the address: it answers EFAULT, or a smaller number, if there is nothing. What is
    // read back goes into `words`, which has room for all of it.
    unsafe {
        let written = libc::write(to, address as *const _, bytes);
        if written <= 0 {
            return 0;
        }
        let read = libc::read(from, words.as_mut_ptr().cast(), bytes);
        usize::try_from(read).unwrap_or(0) / WORD
    }
}

/// Whether the instruction before this address, which lies in a segment that begins at `start`, is a call.
#[cfg(target_arch = "x86_64")]
fn follows_a_call(address: usize, start: usize) -> bool {
    let byte = |before: usize| {
        // SAFETY: the segment is mapped, for good, from `start` to beyond `address`; the caller has it from the table.
        (address - start >= before).then(|| unsafe { *((address - before) as *const u8) })
    };
    // `call` to an offset; or through a register or memory, which takes two to seven bytes.
    byte(5) == Some(0xe8)
        || (2..=7).any(|length| {
            byte(length) == Some(0xff) && byte(length - 1).is_some_and(|operand| (operand >> 3) & 7 == 2)
        })
}

/// The same for `bl` and `blr`.
#[cfg(target_arch = "aarch64")]
fn follows_a_call(address: usize, start: usize) -> bool {
    if address % 4 != 0 || address - start < 4 {
        return false;
    }
    // SAFETY: as above, and instructions are aligned.
    let instruction = unsafe { *((address - 4) as *const u32) };
    instruction >> 26 == 0b10_0101 || instruction & 0xffff_fc1f == 0xd63f_0000
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn follows_a_call(_address: usize, _start: usize) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipe() -> (c_int, c_int) {
        let mut pipe = [0; 2];
        // SAFETY: there is room for two descriptors.
        let made = unsafe { libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) };
        assert_eq!(made, 0);
        (pipe[0], pipe[1])
    }

    #[test]
    fn the_code_that_calls_is_found_on_its_stack_and_nothing_where_there_is_no_memory() {
        text::register_host(Who::host());
        let here = 0_usize;
        let stack_pointer = (&raw const here) as usize;
        let pipe = pipe();
        let found = innermost(stack_pointer, pipe, |_| true);
        assert!(found.is_some_and(|who| who.is_host));
        assert!(innermost(stack_pointer, pipe, |who| !who.is_host).is_none());
        for nowhere in [0, 4096, usize::MAX - 4096] {
            assert!(innermost(nowhere, pipe, |_| true).is_none(), "{nowhere}");
        }
    }
}
