//! The text of one family, in blocks of a few skills each. Only blocks in which something changed are rewritten, and what
//! stands between their values is copied from the previous text: a scrape costs what changed since the last one.

use bytes::{Bytes, BytesMut};

use super::family_kind::FamilyKind;
use super::format::Format;
use super::gzip::{CompressedChunk, GzipEncoder};
use super::sample::{Sample, Value};
use super::skill_view::SkillView;

/// The text of every sample of one family.
///
/// Invariant: a block that is not stale is the text of its skills in the view. A change to a skill without
/// [`FamilyText::mark`] breaks it.
#[derive(Debug)]
pub(super) struct FamilyText {
    kind: FamilyKind,
    /// In no order; the index of a block never changes.
    blocks: Vec<Block>,
    /// Indices of blocks, sorted by the names of their skills.
    order: Vec<u32>,
    /// The block of each skill, by the index of the skill.
    block_of: Vec<u32>,
    stale: Vec<u32>,
}

#[derive(Debug, Default)]
struct Block {
    /// Indices of skills, sorted by name. Never empty.
    skills: Vec<u32>,
    text: Bytes,
    /// The value of each sample.
    values: Vec<Written>,
    compressed: Option<CompressedChunk>,
    /// Whether OpenMetrics adds exemplars, and created timestamps.
    has_exemplars: bool,
    has_created: bool,
    /// The compressed text with these, and whether it has created timestamps.
    compressed_with_suffixes: Option<(bool, CompressedChunk)>,
    staleness: Staleness,
}

/// A value in a text. It ends with the line.
#[derive(Debug, Clone, Copy)]
struct Written {
    /// Those of a 64-bit integer. As such they would take another four bytes of alignment, and there are 170,000 of 10,000 skills.
    bits: [u8; 8],
    begin: u32,
}

/// A text whose values are replaced from the first to the last: in place until one has another length than before, and from there
/// on in another buffer, which is copied back. A new text for each new length would leave holes in the heap that no later one fits.
struct Rewrite<'b> {
    text: BytesMut,
    /// Empty before and after: the texts of one refresh share it.
    buffer: &'b mut Vec<u8>,
    /// `None` while every value has the length of the one before.
    moved: Option<Moved>,
}

/// The part of the text that is in the other buffer.
struct Moved {
    /// Where it begins.
    begin: usize,
    /// Where the part of the text ends that is in the buffer, with new values.
    end: usize,
}

/// Which changes to a skill are not in the text yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) enum Staleness {
    /// None.
    #[default]
    Fresh,
    /// Changed values of existing samples.
    Values,
    /// Added or removed samples.
    Samples,
}

impl FamilyText {
    pub fn new(kind: FamilyKind) -> Self {
        Self { kind, blocks: Vec::new(), order: Vec::new(), block_of: Vec::new(), stale: Vec::new() }
    }

    /// Returns the indices of all skills, sorted by name.
    pub fn skills(&self) -> impl Iterator<Item = usize> {
        self.order.iter().flat_map(|&block| self.blocks[block as usize].skills.iter().map(|&index| index as usize))
    }

    /// Adds the skill at `index`, which must be the next of all.
    pub fn add(&mut self, index: usize, skills: &[SkillView]) {
        let name = |index: &u32| &*skills[*index as usize].series.skill_name;
        let added = u32::try_from(index).expect("the limit of skills is far below 2^32");
        debug_assert_eq!(self.block_of.len(), index);
        let after = self.order.partition_point(|&block| {
            self.blocks[block as usize].skills.first().is_some_and(|first| name(first) < name(&added))
        });
        // A name before all others joins the first block.
        let at = after.saturating_sub(1);
        let Some(&block) = self.order.get(at) else {
            self.order.push(0);
            self.blocks.push(Block { skills: vec![added], ..Block::default() });
            self.block_of.push(0);
            return self.mark(index, Staleness::Samples);
        };
        self.block_of.push(block);
        let members = &mut self.blocks[block as usize].skills;
        let position = members.partition_point(|other| name(other) < name(&added));
        members.insert(position, added);
        if members.len() > 2 * self.kind.block_skills() {
            // Where names arrive sorted, halves would never be filled again.
            let kept = if position + 1 == members.len() { members.len() - 1 } else { members.len() / 2 };
            let moved = members.split_off(kept);
            self.mark(index, Staleness::Samples);
            let new = u32::try_from(self.blocks.len()).expect("there are fewer blocks than skills");
            moved.iter().for_each(|&index| self.block_of[index as usize] = new);
            let first = moved[0] as usize;
            self.blocks.push(Block { skills: moved, ..Block::default() });
            self.order.insert(at + 1, new);
            self.mark(first, Staleness::Samples);
            let left = self.blocks[block as usize].skills[0] as usize;
            return self.mark(left, Staleness::Samples);
        }
        self.mark(index, Staleness::Samples);
    }

    /// Marks the text of the skill at `index` as stale.
    pub fn mark(&mut self, index: usize, staleness: Staleness) {
        let block = self.block_of[index];
        let known = &mut self.blocks[block as usize].staleness;
        if *known == Staleness::Fresh && staleness > Staleness::Fresh {
            self.stale.push(block);
        }
        *known = staleness.max(*known);
    }

    /// Rewrites what is stale.
    pub fn refresh(&mut self, skills: &[SkillView]) {
        let mut buffer = Vec::new();
        for index in self.stale.drain(..) {
            let block = &mut self.blocks[index as usize];
            match std::mem::take(&mut block.staleness) {
                Staleness::Fresh => {}
                Staleness::Values => block.write_values(self.kind, skills, &mut buffer),
                Staleness::Samples => block.write_samples(self.kind, skills, &mut buffer),
            }
        }
    }

    /// Returns the size of the cached text, compressed text included.
    pub fn bytes(&self) -> usize {
        self.blocks.iter().map(Block::bytes).sum()
    }

    /// Drops the cached text: the next refresh writes all of it.
    pub fn clear(&mut self) {
        for block in &mut self.blocks {
            let skills = std::mem::take(&mut block.skills);
            *block = Block { skills, staleness: Staleness::Samples, ..Block::default() };
        }
        self.stale = (0..).take(self.blocks.len()).collect();
    }

    /// Returns the text of every block, in order. Nothing may be stale.
    pub fn texts(&self, format: Format, skills: &[SkillView]) -> impl Iterator<Item = Bytes> {
        debug_assert!(self.stale.is_empty());
        let blocks =
            self.order.iter().map(|&block| &self.blocks[block as usize]).filter(|block| !block.text.is_empty());
        blocks.map(move |block| match block.suffixes(format) {
            None => block.text.clone(),
            Some(with_created) => block.with_suffixes(self.kind, skills, with_created).into(),
        })
    }

    /// Calls `each` with every block, compressed. Nothing may be stale.
    pub fn each_compressed(
        &mut self,
        format: Format,
        skills: &[SkillView],
        encoder: &mut GzipEncoder,
        mut each: impl FnMut(&CompressedChunk),
    ) {
        debug_assert!(self.stale.is_empty());
        for &block in &self.order {
            let block = &mut self.blocks[block as usize];
            if block.text.is_empty() {
                continue;
            }
            let Some(with_created) = block.suffixes(format) else {
                each(block.compressed.get_or_insert_with(|| encoder.compress(&block.text)));
                continue;
            };
            let known = block.compressed_with_suffixes.take().filter(|(has_created, _)| *has_created == with_created);
            let compressed = known.unwrap_or_else(|| {
                (with_created, encoder.compress(&block.with_suffixes(self.kind, skills, with_created)))
            });
            each(&block.compressed_with_suffixes.insert(compressed).1);
        }
    }
}

impl Block {
    fn bytes(&self) -> usize {
        let suffixed = self.compressed_with_suffixes.as_ref().map(|(_, compressed)| compressed);
        let compressed = self.compressed.iter().chain(suffixed).map(CompressedChunk::bytes).sum::<usize>();
        self.text.len() + size_of_val(&*self.values) + compressed
    }

    fn write_samples(&mut self, kind: FamilyKind, skills: &[SkillView], buffer: &mut Vec<u8>) {
        self.values.clear();
        for &index in &self.skills {
            kind.each_sample(&skills[index as usize], |sample| {
                sample.write_series(buffer);
                self.values.push(Written { bits: sample.value.bits(), begin: position(buffer.len()) });
                sample.value.with_text(|text| buffer.extend_from_slice(text));
                buffer.push(b'\n');
            });
        }
        self.values.shrink_to_fit();
        // Of some kinds no skill has a sample.
        let mut text = if buffer.is_empty() { BytesMut::new() } else { with_margin(buffer.len()) };
        text.extend_from_slice(buffer);
        buffer.clear();
        self.replace(text.freeze(), kind, skills);
    }

    fn replace(&mut self, text: Bytes, kind: FamilyKind, skills: &[SkillView]) {
        let suffixes = self.skills.iter().map(|&index| kind.has_suffixes(&skills[index as usize]));
        (self.has_exemplars, self.has_created) = suffixes.fold((false, false), |a, b| (a.0 | b.0, a.1 | b.1));
        self.text = text;
        self.compressed = None;
        self.compressed_with_suffixes = None;
    }

    /// Returns whether `format` needs created timestamps in this block; `None` if the block is the same in both formats.
    fn suffixes(&self, format: Format) -> Option<bool> {
        let Format::OpenMetrics { with_created } = format else { return None };
        let with_created = with_created && self.has_created;
        (with_created || self.has_exemplars).then_some(with_created)
    }

    fn with_suffixes(&self, kind: FamilyKind, skills: &[SkillView], with_created: bool) -> Vec<u8> {
        let text = &*self.text;
        let mut out = Vec::with_capacity(text.len() + text.len() / 8);
        let mut copied = 0;
        let mut values = self.values.iter();
        for &index in &self.skills {
            let mut suffixes = kind.suffixes(&skills[index as usize]).into_iter();
            kind.each_sample(&skills[index as usize], |sample| {
                let suffix = suffixes.next().unwrap_or_default();
                let begin = values.next().expect("nothing is stale").begin;
                let end = end_of_line(text, begin as usize);
                out.extend_from_slice(&text[copied..end]);
                Sample::write_exemplar(suffix, &mut out);
                out.push(b'\n');
                copied = end + 1;
                if with_created {
                    sample.write_created(suffix, &mut out);
                }
            });
        }
        out
    }

    /// Rewrites changed values; the samples are those of the previous text.
    fn write_values(&mut self, kind: FamilyKind, skills: &[SkillView], buffer: &mut Vec<u8>) {
        let mut rewrite = Rewrite::new(std::mem::take(&mut self.text), buffer);
        let mut values = self.values.iter_mut();
        for &index in &self.skills {
            kind.each_value(&skills[index as usize], |value| {
                let Written { bits, begin } = values.next().expect("who adds a line marks it");
                if *bits == value.bits() {
                    *begin = rewrite.skip(*begin);
                } else {
                    *bits = value.bits();
                    *begin = rewrite.replace(*begin, value);
                }
            });
        }
        self.replace(rewrite.finish(), kind, skills);
    }
}

impl<'b> Rewrite<'b> {
    /// Copies `text` if it is shared with a scrape whose body is not sent yet. `buffer` is empty.
    fn new(text: Bytes, buffer: &'b mut Vec<u8>) -> Self {
        Self { text: text.into(), buffer, moved: None }
    }

    /// Leaves the value that began at `begin` as it is, behind those before it, and returns where it begins now.
    fn skip(&self, begin: u32) -> u32 {
        match &self.moved {
            None => begin,
            // What is still to be copied up to here keeps its length.
            Some(Moved { begin: moved, end }) => position(moved + self.buffer.len() + (begin as usize - end)),
        }
    }

    /// Replaces the value that began at `begin`, behind those before it, and returns where it begins now.
    fn replace(&mut self, begin: u32, new: Value) -> u32 {
        let Self { text, buffer, moved } = self;
        let (at, end) = (begin as usize, end_of_line(text, begin as usize));
        new.with_text(|new| match moved {
            None if end - at == new.len() => {
                text[at..end].copy_from_slice(new);
                begin
            }
            None => {
                buffer.extend_from_slice(new);
                *moved = Some(Moved { begin: at, end });
                begin
            }
            Some(moved) => {
                buffer.extend_from_slice(&text[moved.end..at]);
                let begin = position(moved.begin + buffer.len());
                buffer.extend_from_slice(new);
                moved.end = end;
                begin
            }
        })
    }

    fn finish(self) -> Bytes {
        let Self { mut text, buffer, moved } = self;
        if let Some(Moved { begin, end }) = moved {
            buffer.extend_from_slice(&text[end..]);
            let len = begin + buffer.len();
            if len > text.capacity() {
                let mut longer = with_margin(len);
                longer.extend_from_slice(&text[..begin]);
                text = longer;
            }
            text.truncate(begin);
            text.extend_from_slice(buffer);
            buffer.clear();
        }
        text.freeze()
    }
}

/// Returns an empty text with room for `len` bytes, and for values that become longer.
fn with_margin(len: usize) -> BytesMut {
    BytesMut::with_capacity(len + len / 64 + 16)
}

/// Returns where the line that `position` is in ends. Each line of a block has an end.
fn end_of_line(text: &[u8], position: usize) -> usize {
    position + text[position..].iter().take_while(|byte| **byte != b'\n').count()
}

/// A block has a few skills, and the limits of labels and phases keep their text far below 4 GiB.
fn position(position: usize) -> u32 {
    u32::try_from(position).expect("a block is far smaller than 4 GiB")
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::exposition::zero_first::Zeros;
    use crate::ledger::{AnomalySeries, SkillSeries};

    /// Writes a line for each value, and returns the text with where each value begins.
    fn text_of(values: impl Iterator<Item = u64>) -> (Vec<u8>, Vec<u32>) {
        let (mut text, mut begins) = (Vec::new(), Vec::new());
        for (number, value) in values.enumerate() {
            text.extend_from_slice(format!("series{{number=\"{number}\"}} ").as_bytes());
            begins.push(position(text.len()));
            text.extend_from_slice(format!("{value}\n").as_bytes());
        }
        (text, begins)
    }

    #[test]
    fn a_text_whose_values_become_a_little_longer_stays_where_it_is() {
        let (text, begins) = text_of(0..100);
        let mut previous = with_margin(text.len());
        previous.extend_from_slice(&text);
        let address = previous.as_ptr();
        let mut buffer = Vec::new();
        let mut rewrite = Rewrite::new(previous.freeze(), &mut buffer);
        for (begin, value) in begins.into_iter().zip(10..) {
            rewrite.replace(begin, Value::Count(value));
        }
        let longer = rewrite.finish();
        assert_eq!((longer.as_ptr(), longer.to_vec()), (address, text_of(10..110).0));
    }

    #[test]
    fn a_text_that_is_written_has_room_for_longer_values() {
        let anomaly = |name: &str| AnomalySeries { anomaly_type: name.into(), count: 9, born_micros: None };
        let series = SkillSeries { anomalies: ["a", "b", "c"].map(anomaly).into(), ..SkillSeries::new("skill".into()) };
        let mut skills =
            [SkillView { series, last_listed_micros: None, last_changed_micros: None, zeros: Zeros::default() }];
        let mut text = FamilyText::new(FamilyKind::Anomalies);
        text.add(0, &skills);
        let mut refreshed = |skills: &[SkillView]| {
            text.mark(0, Staleness::Values);
            text.refresh(skills);
            let Block { text, .. } = &text.blocks[0];
            let lines = str::from_utf8(text).unwrap().lines();
            let counts: Vec<u64> = lines.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
            (text.as_ptr(), counts)
        };
        let (written, counts) = refreshed(&skills);
        assert_eq!(counts, [9, 9, 9]);
        skills[0].series.anomalies[2].count = 10;
        assert_eq!(refreshed(&skills), (written, vec![9, 9, 10]), "behind new samples");
        skills[0].series.anomalies[0].count = u64::MAX;
        skills[0].series.anomalies[1].count = u64::MAX;
        let (moved, counts) = refreshed(&skills);
        assert_eq!(counts, [u64::MAX, u64::MAX, 10]);
        assert_ne!(moved, written, "there is room for a few longer values only");
        skills[0].series.anomalies[2].count = 100;
        assert_eq!(refreshed(&skills), (moved, vec![u64::MAX, u64::MAX, 100]), "in the longer text");
    }

    proptest! {
        #[test]
        fn a_text_with_replaced_values_is_as_one_written_with_them(
            values in vec((0_u64..200, prop::option::of(0_u64..200)), 0..12),
            has_margin in any::<bool>(),
            is_shared in any::<bool>(),
        ) {
            let (text, mut begins) = text_of(values.iter().map(|(before, _)| *before));
            let mut previous =
                if has_margin { with_margin(text.len()) } else { BytesMut::with_capacity(text.len()) };
            previous.extend_from_slice(&text);
            let previous = previous.freeze();
            let shared = is_shared.then(|| previous.clone());
            let mut buffer = Vec::new();
            let mut rewrite = Rewrite::new(previous, &mut buffer);
            for (begin, (_, new)) in begins.iter_mut().zip(&values) {
                *begin = match new {
                    Some(new) => rewrite.replace(*begin, Value::Count(*new)),
                    None => rewrite.skip(*begin),
                };
            }
            let expected = text_of(values.iter().map(|(before, new)| new.unwrap_or(*before)));
            prop_assert_eq!((rewrite.finish().to_vec(), begins), expected);
            prop_assert!(shared.is_none_or(|shared| shared == text), "a body that is being sent does not change");
            prop_assert!(buffer.is_empty());
        }
    }
}
