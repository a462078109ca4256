//! Znode names: any byte string without `/` to a legal name and back.
//!
//! With `E` the percent-encoding of a whole name and `D` its inverse, a name is encoded if it is *not legal* or *reads
//! as an encoding*, and a legal name reads as an encoding if it is `E` of a name that is encoded. So `.` is `%2E`,
//! `%2E` is `%252E`, `%252E` is `%25252E` and so on for ever, which is where room for the illegal names comes from;
//! while `100%`, `%2e` and `%41` are no encoding of anything that needs one and stay as they are.
//!
//! It is one to one: encoded names are exactly those that read as an encoding, `D` undoes `E`, and all others are kept.

/// The digits of an encoded byte. Lower case is never written, so a name with `%2e` stands for itself.
const DIGITS: &[u8; 16] = b"0123456789ABCDEF";

/// Whether ZooKeeper refuses the character in a path: `PathUtils.validatePath` of 3.8.0, run over all code points. It
/// looks at UTF-16 units, so what lies beyond U+FFFF is refused as the surrogates it is made of.
fn refused(character: char) -> bool {
    matches!(u32::from(character), 0..=0x1f | 0x7f..=0x9f | 0xd800..=0xf8ff | 0xfff0..)
}

/// Whether a byte is a character that no rule here looks at.
fn plain(byte: u8) -> bool {
    matches!(byte, 0x20..=0x7e) && byte != b'%'
}

/// Whether a znode can have this name. `/` is not looked for: no caller can have one.
pub(super) fn legal(name: &[u8]) -> bool {
    if matches!(name, b"" | b"." | b"..") {
        return false;
    }
    if name.iter().all(|byte| matches!(byte, 0x20..=0x7e)) {
        return true;
    }
    std::str::from_utf8(name).is_ok_and(|text| !text.chars().any(refused))
}

/// Appends the name of which `znode`, a legal znode name, is the znode name.
pub(super) fn decode_into(out: &mut Vec<u8>, znode: &[u8]) {
    if reads_as_encoding(znode) {
        // What reads as an encoding decodes, so the `else` of this is never taken.
        if percent_decode_into(out, znode).is_some() {
            return;
        }
    }
    out.extend_from_slice(znode);
}

/// Turns the name at the end of `out`, from `start` on, into its znode name.
pub(super) fn encode_tail(out: &mut Vec<u8>, start: usize) {
    let needed = match out.get(start..) {
        Some(name) if !matches!(name, b"" | b"." | b"..") && name.iter().copied().all(plain) => false,
        Some(name) => !legal(name) || reads_as_encoding(name),
        None => false,
    };
    if needed {
        let name = out.split_off(start);
        percent_encode_into(out, &name);
    }
}

/// Whether a legal name is the encoding of a name that is encoded.
///
/// As long as what it decodes to is legal, only its `%` signs were encoded, so each round takes one `25` away behind
/// each of them. All rounds are done at once: a name of a million `25` is as quick as any other.
fn reads_as_encoding(name: &[u8]) -> bool {
    if !name.contains(&b'%') {
        return false;
    }
    let mut rounds = usize::MAX;
    for (at, byte) in name.iter().enumerate() {
        if *byte == b'%' {
            let behind = name.get(at + 1..).unwrap_or_default();
            let two_digits = matches!(behind, [high, low, ..] if digit(*high).is_some() && digit(*low).is_some());
            if !two_digits && name != b"%" {
                return false;
            }
            rounds = rounds.min(behind.chunks_exact(2).take_while(|pair| pair == b"25").count());
        }
    }
    if rounds == 0 {
        return encodes_illegal(name);
    }
    let mut innermost = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((byte, behind)) = rest.split_first() {
        innermost.push(*byte);
        rest = if *byte == b'%' { behind.get(rounds * 2..).unwrap_or_default() } else { behind };
    }
    encodes_illegal(&innermost)
}

/// Whether a name is exactly what [`percent_encode_into`] makes of some name that no znode can have.
fn encodes_illegal(name: &[u8]) -> bool {
    let mut decoded = Vec::with_capacity(name.len());
    if percent_decode_into(&mut decoded, name).is_none() || legal(&decoded) {
        return false;
    }
    let mut again = Vec::with_capacity(name.len());
    percent_encode_into(&mut again, &decoded);
    again == name
}

/// `E`: the empty name is `%`, a name of dots alone is encoded whole, else `%` and what is refused.
fn percent_encode_into(out: &mut Vec<u8>, name: &[u8]) {
    if name.is_empty() {
        out.push(b'%');
        return;
    }
    let dots = matches!(name, b"." | b"..");
    let mut utf8 = [0_u8; 4];
    for chunk in name.utf8_chunks() {
        for character in chunk.valid().chars() {
            let bytes = character.encode_utf8(&mut utf8).as_bytes();
            if dots || character == '%' || refused(character) {
                bytes.iter().for_each(|byte| push_encoded(out, *byte));
            } else {
                out.extend_from_slice(bytes);
            }
        }
        chunk.invalid().iter().for_each(|byte| push_encoded(out, *byte));
    }
}

fn push_encoded(out: &mut Vec<u8>, byte: u8) {
    out.push(b'%');
    for nibble in [byte >> 4, byte & 15] {
        out.push(DIGITS.get(usize::from(nibble)).copied().unwrap_or(b'0'));
    }
}

/// `D`: `None`, with rubbish appended, if a `%` has no two upper-case hexadecimal digits behind it.
fn percent_decode_into(out: &mut Vec<u8>, name: &[u8]) -> Option<()> {
    if name == b"%" {
        return Some(());
    }
    let mut rest = name;
    while let Some((byte, behind)) = rest.split_first() {
        if *byte == b'%' {
            let ([high, low], behind) = behind.split_first_chunk::<2>()?;
            out.push(digit(*high)? << 4 | digit(*low)?);
            rest = behind;
        } else {
            out.push(*byte);
            rest = behind;
        }
    }
    Some(())
}

fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}
