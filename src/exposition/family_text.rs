//! The text of one family, in blocks of a few skills each. Only blocks in which something changed are rewritten, and what
//! stands between their values is copied from the previous text: a scrape costs what changed since the last one.

use bytes::Bytes;

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

/// A value in a text.
#[derive(Debug, Clone, Copy)]
struct Written {
    bits: u64,
    begin: u32,
    end: u32,
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
        for index in self.stale.drain(..) {
            let block = &mut self.blocks[index as usize];
            match std::mem::take(&mut block.staleness) {
                Staleness::Fresh => {}
                Staleness::Values => block.write_values(self.kind, skills),
                Staleness::Samples => block.write_samples(self.kind, skills),
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

    fn write_samples(&mut self, kind: FamilyKind, skills: &[SkillView]) {
        let mut out = Vec::with_capacity(self.text.len());
        self.values.clear();
        for &index in &self.skills {
            kind.each_sample(&skills[index as usize], |sample| {
                sample.write_series(&mut out);
                self.values.push(push_value(sample.value, &mut out));
                out.push(b'\n');
            });
        }
        self.values.shrink_to_fit();
        self.replace(out.into_boxed_slice().into(), kind, skills);
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
                let end = values.next().expect("nothing is stale").end as usize;
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

    /// Rewrites changed values; the samples are those of the previous text, of which everything else is copied.
    fn write_values(&mut self, kind: FamilyKind, skills: &[SkillView]) {
        let before = &*self.text;
        let mut out = Vec::with_capacity(before.len() + before.len() / 64 + 16);
        let mut copied = 0_u32;
        let mut values = self.values.iter_mut();
        for &index in &self.skills {
            kind.each_sample(&skills[index as usize], |sample| {
                let written = values.next().expect("who adds a line marks it");
                if written.bits == sample.value.bits() {
                    // What is still to be copied up to here keeps its length.
                    let begin = position(&out) + (written.begin - copied);
                    *written = Written { begin, end: begin + (written.end - written.begin), ..*written };
                } else {
                    out.extend_from_slice(&before[copied as usize..written.begin as usize]);
                    copied = written.end;
                    *written = push_value(sample.value, &mut out);
                }
            });
        }
        out.extend_from_slice(&before[copied as usize..]);
        self.replace(out.into(), kind, skills);
    }
}

fn push_value(value: Value, out: &mut Vec<u8>) -> Written {
    let begin = position(out);
    value.with_text(|text| out.extend_from_slice(text));
    Written { bits: value.bits(), begin, end: position(out) }
}

/// A block has a few skills, and the limits of labels and phases keep their text far below 4 GiB.
fn position(out: &[u8]) -> u32 {
    u32::try_from(out.len()).expect("a block is far smaller than 4 GiB")
}
