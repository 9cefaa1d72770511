//! Text in a handler of signals: in place, without memory from anywhere else. What does not fit is cut off.

/// Bytes of a fixed length.
pub(super) struct Line<const ROOM: usize> {
    bytes: [u8; ROOM],
    length: usize,
}

impl<const ROOM: usize> Line<ROOM> {
    pub(super) fn new() -> Self {
        Line {
            bytes: [0; ROOM],
            length: 0,
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    pub(super) fn push(&mut self, text: &[u8]) {
        for byte in text {
            if self.length < ROOM {
                self.bytes[self.length] = *byte;
                self.length += 1;
            }
        }
    }

    /// A name from elsewhere, up to a NUL: what is more than a word's characters becomes `?`.
    pub(super) fn push_name(&mut self, name: &[u8]) {
        for byte in name.iter().take_while(|byte| **byte != 0) {
            let plain = byte.is_ascii_alphanumeric() || b" -_.:/#".contains(byte);
            self.push(if plain { std::slice::from_ref(byte) } else { b"?" });
        }
    }

    pub(super) fn push_number(&mut self, number: u64) {
        let mut digits = [0; 20];
        let mut rest = number;
        let mut first = digits.len();
        loop {
            first -= 1;
            digits[first] = b'0' + u8::try_from(rest % 10).unwrap_or(0);
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        self.push(&digits[first..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_put_together_and_cut_off_where_the_room_ends() {
        let mut line = Line::<40>::new();
        line.push(b"at ");
        for number in [0, 7, 1700, u64::MAX] {
            line.push_number(number);
            line.push(b" ");
        }
        line.push_name(b"a\"b\\c\n\0d");
        assert_eq!(
            String::from_utf8_lossy(line.bytes()),
            "at 0 7 1700 18446744073709551615 a?b?c?"
        );
        line.push(b"123456789");
        assert_eq!(line.bytes().len(), 40);
    }
}
