//! Sequences that grow in a decoder. They share the buffers of every layer's keys and values: each has consecutive rows
//! there, with room for tokens to come.

use std::collections::BTreeMap;

use super::Decoder;
use crate::error::Result;
use crate::kernels::{Kernels, read};
use crate::model::block::{CachedRows, LayerCache};
use crate::model::cached::cache_rows;
use crate::model::language_model::Session;
use crate::model::pass::ints;
use crate::zo::direction::Signs;

impl<B: Kernels> Decoder<B> {
    /// See [`LanguageModel::session`](crate::model::LanguageModel::session).
    pub(super) fn begin(&self, signs: Signs) -> Box<dyn Session + '_> {
        Box::new(DecoderSession {
            decoder: self,
            signs,
            places: BTreeMap::new(),
            layers: Vec::new(),
            rows: 0,
        })
    }
}

/// Growing sequences in a decoder.
struct DecoderSession<'a, B: Kernels> {
    decoder: &'a Decoder<B>,
    signs: Signs,
    places: BTreeMap<usize, CachePlace>,
    layers: Vec<LayerCache<B>>,
    /// Rows of the buffers.
    rows: usize,
}

/// A sequence's rows in the buffers.
struct CachePlace {
    begin: usize,
    /// Rows that are written, one for each token.
    length: usize,
    capacity: usize,
}

impl<B: Kernels> Session for DecoderSession<'_, B> {
    fn feed(&mut self, parts: &[(usize, &[u32])]) -> Result<Vec<f32>> {
        let decoder = self.decoder;
        let tokens: Vec<u32> = parts.iter().flat_map(|(_, tokens)| *tokens).copied().collect();
        decoder.free_for_pass(tokens.len(), parts.len());
        self.make_room(parts);
        let (mut queries, mut written, mut last) = (Vec::new(), Vec::new(), Vec::new());
        for (sequence, tokens) in parts {
            let Some(place) = self.places.get_mut(sequence) else { continue };
            for position in place.length..place.length + tokens.len() {
                let row = place.begin + position;
                queries.push((position, [0, 0, place.begin, row + 1]));
                written.push(row as i32);
            }
            place.length += tokens.len();
            last.push(queries.len() as i32 - 1);
        }
        let x = decoder.embedding.forward(&tokens, queries.iter().map(|(position, _)| *position))?;
        let pass = decoder.pass(queries.into_iter(), self.signs);
        let written = ints(written.into_iter(), &decoder.device);
        let last = (last.len() < tokens.len()).then(|| ints(last.into_iter(), &decoder.device));
        let caches = self.layers.iter_mut().map(|cache| Some(CachedRows { cache, rows: &written }));
        read(decoder.head(decoder.forward(x, &pass, last.as_ref(), caches), self.signs))
    }

    fn end(&mut self, sequence: usize) {
        self.places.remove(&sequence);
    }
}

impl<B: Kernels> Drop for DecoderSession<'_, B> {
    fn drop(&mut self) {
        self.layers.clear();
        // Later passes have no buffer of this size.
        B::memory_cleanup(&self.decoder.device);
    }
}

impl<B: Kernels> DecoderSession<'_, B> {
    /// Divides the buffers' rows anew if a sequence has no room for its part. Sequences that have ended get none.
    fn make_room(&mut self, parts: &[(usize, &[u32])]) {
        let mut lengths: BTreeMap<usize, usize> =
            self.places.iter().map(|(sequence, place)| (*sequence, place.length)).collect();
        for (sequence, tokens) in parts {
            *lengths.entry(*sequence).or_default() += tokens.len();
        }
        let fits = |(sequence, length): (&usize, &usize)| {
            self.places.get(sequence).is_some_and(|place| *length <= place.capacity)
        };
        if lengths.iter().all(fits) {
            return;
        }
        let rows = cache_rows(lengths.values().copied());
        let spare = (rows - lengths.values().sum::<usize>()) / lengths.len();
        let (mut from, mut to, mut begin) = (Vec::new(), Vec::new(), 0);
        for (sequence, fed) in lengths {
            let capacity = fed + spare;
            let length = self.places.get(&sequence).map_or(0, |place| {
                from.extend((place.begin..place.begin + place.length).map(|row| row as i32));
                to.extend((begin..begin + place.length).map(|row| row as i32));
                place.length
            });
            self.places.insert(sequence, CachePlace { begin, length, capacity });
            begin += capacity;
        }
        self.move_rows(rows, from, to);
    }

    /// Gives the buffers `rows` rows, of which those at `to` are the old ones at `from`.
    fn move_rows(&mut self, rows: usize, from: Vec<i32>, to: Vec<i32>) {
        let Decoder { checkpoint, device, compute, layers, .. } = self.decoder;
        if from.is_empty() {
            self.layers.clear();
            let config = checkpoint.config();
            let shape = [rows, config.num_key_value_heads, config.head_dim];
            let empty = layers.iter().map(|_| LayerCache::new(shape, B::tensor_type(*compute), device));
            self.layers.extend(empty);
        } else {
            let [from, to] = [from, to].map(|rows| ints(rows.into_iter(), device));
            self.layers.iter_mut().for_each(|cache| cache.move_rows(rows, &from, &to));
        }
        if std::mem::replace(&mut self.rows, rows) != rows {
            // No later buffer has the size of the old ones.
            B::memory_cleanup(device);
        }
    }
}
