//! The size of the buffers that hold the keys and values of growing texts.

/// Rows that every text has to spare at least, when the buffers are laid out anew.
pub const SPARE_ROWS: usize = 64;

/// Rows of the buffers of texts of these lengths, in tokens. A power of two, so that copies are rare and buffers come in few
/// sizes.
pub fn cache_rows(lengths: impl Iterator<Item = usize>) -> usize {
    lengths.map(|length| length + SPARE_ROWS).sum::<usize>().next_power_of_two()
}
