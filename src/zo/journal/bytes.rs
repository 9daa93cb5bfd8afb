//! Reading fields of fixed length from bytes.

/// Takes the first `N` bytes off `bytes`; `None` if there are fewer.
pub fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*head)
}
