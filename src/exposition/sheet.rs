//! One family as text, in blocks of a few skills each. A block is written anew only where something in it changed, and
//! then what stands between the values is taken from the text before: a scrape costs what changed since the last one.

use bytes::Bytes;

use super::format::Format;
use super::gzip::{Packed, Packer};
use super::lines::{Line, Subject, Value};
use super::view::ShownSkill;

/// Every line of one family.
///
/// Invariant: a block that is not stale is the text of its skills as the view has them. What breaks it is a change to a
/// skill without [`Sheet::mark`].
#[derive(Debug)]
pub(super) struct Sheet {
    subject: Subject,
    /// In no order; a block's place never changes.
    blocks: Vec<Block>,
    /// Places of blocks, by the names of their skills.
    order: Vec<u32>,
    /// The block of each skill, by the skill's own place.
    block_of: Vec<u32>,
    stale: Vec<u32>,
}

#[derive(Debug, Default)]
struct Block {
    /// Places of skills, by name. Never empty.
    skills: Vec<u32>,
    text: Bytes,
    /// The value of each line.
    values: Vec<Written>,
    packed: Option<Packed>,
    /// Whether OpenMetrics has exemplars, and times of birth, in between.
    has_exemplars: bool,
    has_births: bool,
    /// The text with these, packed, and whether it tells of births.
    packed_with_additions: Option<(bool, Packed)>,
    staleness: Staleness,
}

/// A value in a text.
#[derive(Debug, Clone, Copy)]
struct Written {
    bits: u64,
    begin: u32,
    end: u32,
}

/// What of a skill is not in the text yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) enum Staleness {
    /// Nothing.
    #[default]
    Fresh,
    /// Values of lines that are there.
    Values,
    /// There are other lines.
    Lines,
}

impl Sheet {
    pub fn new(subject: Subject) -> Self {
        Self { subject, blocks: Vec::new(), order: Vec::new(), block_of: Vec::new(), stale: Vec::new() }
    }

    /// Every skill's place, by name.
    pub fn skills(&self) -> impl Iterator<Item = usize> {
        self.order.iter().flat_map(|&block| self.blocks[block as usize].skills.iter().map(|&place| place as usize))
    }

    /// Adds the skill at `place`, which has the next place of all.
    pub fn add(&mut self, place: usize, skills: &[ShownSkill]) {
        let name = |place: &u32| &*skills[*place as usize].series.skill_name;
        let added = u32::try_from(place).expect("the limit of skills is far below 2^32");
        debug_assert_eq!(self.block_of.len(), place);
        let after = self.order.partition_point(|&block| {
            self.blocks[block as usize].skills.first().is_some_and(|first| name(first) < name(&added))
        });
        // A name before all others joins the first block.
        let at = after.saturating_sub(1);
        let Some(&block) = self.order.get(at) else {
            self.order.push(0);
            self.blocks.push(Block { skills: vec![added], ..Block::default() });
            self.block_of.push(0);
            return self.mark(place, Staleness::Lines);
        };
        self.block_of.push(block);
        let members = &mut self.blocks[block as usize].skills;
        let position = members.partition_point(|other| name(other) < name(&added));
        members.insert(position, added);
        if members.len() > 2 * self.subject.block_skills() {
            // In the order of names a half would stay as it is for ever.
            let kept = if position + 1 == members.len() { members.len() - 1 } else { members.len() / 2 };
            let moved = members.split_off(kept);
            self.mark(place, Staleness::Lines);
            let new = u32::try_from(self.blocks.len()).expect("there are fewer blocks than skills");
            moved.iter().for_each(|&place| self.block_of[place as usize] = new);
            let first = moved[0] as usize;
            self.blocks.push(Block { skills: moved, ..Block::default() });
            self.order.insert(at + 1, new);
            self.mark(first, Staleness::Lines);
            let left = self.blocks[block as usize].skills[0] as usize;
            return self.mark(left, Staleness::Lines);
        }
        self.mark(place, Staleness::Lines);
    }

    /// Notes that something of the skill at `place` is not in the text.
    pub fn mark(&mut self, place: usize, staleness: Staleness) {
        let block = self.block_of[place];
        let known = &mut self.blocks[block as usize].staleness;
        if *known == Staleness::Fresh && staleness > Staleness::Fresh {
            self.stale.push(block);
        }
        *known = staleness.max(*known);
    }

    /// Writes what is stale.
    pub fn refresh(&mut self, skills: &[ShownSkill]) {
        for place in self.stale.drain(..) {
            let block = &mut self.blocks[place as usize];
            match std::mem::take(&mut block.staleness) {
                Staleness::Fresh => {}
                Staleness::Values => block.write_values(self.subject, skills),
                Staleness::Lines => block.write_lines(self.subject, skills),
            }
        }
    }

    /// Every block's text, in order. Nothing may be stale.
    pub fn texts(&self, format: Format, skills: &[ShownSkill]) -> impl Iterator<Item = Bytes> {
        debug_assert!(self.stale.is_empty());
        let blocks =
            self.order.iter().map(|&block| &self.blocks[block as usize]).filter(|block| !block.text.is_empty());
        blocks.map(move |block| match block.additions(format) {
            None => block.text.clone(),
            Some(with_births) => block.with_additions(self.subject, skills, with_births).into(),
        })
    }

    /// The same packed.
    pub fn each_packed(
        &mut self,
        format: Format,
        skills: &[ShownSkill],
        packer: &mut Packer,
        mut each: impl FnMut(&Packed),
    ) {
        debug_assert!(self.stale.is_empty());
        for &block in &self.order {
            let block = &mut self.blocks[block as usize];
            if block.text.is_empty() {
                continue;
            }
            let Some(with_births) = block.additions(format) else {
                each(block.packed.get_or_insert_with(|| packer.pack(&block.text)));
                continue;
            };
            let known = block.packed_with_additions.take().filter(|(has_births, _)| *has_births == with_births);
            let packed = known.unwrap_or_else(|| {
                (with_births, packer.pack(&block.with_additions(self.subject, skills, with_births)))
            });
            each(&block.packed_with_additions.insert(packed).1);
        }
    }
}

impl Block {
    fn write_lines(&mut self, subject: Subject, skills: &[ShownSkill]) {
        let mut out = Vec::with_capacity(self.text.len());
        self.values.clear();
        for &place in &self.skills {
            subject.each_line(&skills[place as usize], |line| {
                line.write_series(&mut out);
                self.values.push(push_value(line.value, &mut out));
                out.push(b'\n');
            });
        }
        self.values.shrink_to_fit();
        self.replace(out.into_boxed_slice().into(), subject, skills);
    }

    fn replace(&mut self, text: Bytes, subject: Subject, skills: &[ShownSkill]) {
        let additions = self.skills.iter().map(|&place| subject.has_additions(&skills[place as usize]));
        (self.has_exemplars, self.has_births) = additions.fold((false, false), |a, b| (a.0 | b.0, a.1 | b.1));
        self.text = text;
        self.packed = None;
        self.packed_with_additions = None;
    }

    /// Whether `format` has this block with times of birth or without; `None` where it is the same in both formats.
    fn additions(&self, format: Format) -> Option<bool> {
        let Format::OpenMetrics { with_created } = format else { return None };
        let with_births = with_created && self.has_births;
        (with_births || self.has_exemplars).then_some(with_births)
    }

    fn with_additions(&self, subject: Subject, skills: &[ShownSkill], with_births: bool) -> Vec<u8> {
        let text = &*self.text;
        let mut out = Vec::with_capacity(text.len() + text.len() / 8);
        let mut copied = 0;
        let mut values = self.values.iter();
        for &place in &self.skills {
            let mut additions = subject.additions(&skills[place as usize]).into_iter();
            subject.each_line(&skills[place as usize], |line| {
                let addition = additions.next().unwrap_or_default();
                let end = values.next().expect("nothing is stale").end as usize;
                out.extend_from_slice(&text[copied..end]);
                Line::write_exemplar(addition, &mut out);
                out.push(b'\n');
                copied = end + 1;
                if with_births {
                    line.write_created(addition, &mut out);
                }
            });
        }
        out
    }

    /// The lines are those of the text before: only values that changed are written, and what stands between two of them
    /// is copied at once.
    fn write_values(&mut self, subject: Subject, skills: &[ShownSkill]) {
        let before = &*self.text;
        let mut out = Vec::with_capacity(before.len() + before.len() / 64 + 16);
        let mut copied = 0_u32;
        let mut values = self.values.iter_mut();
        for &place in &self.skills {
            subject.each_line(&skills[place as usize], |line| {
                let written = values.next().expect("who adds a line marks it");
                if written.bits == line.value.bits() {
                    // What is still to be copied up to here keeps its length.
                    let begin = position(&out) + (written.begin - copied);
                    *written = Written { begin, end: begin + (written.end - written.begin), ..*written };
                } else {
                    out.extend_from_slice(&before[copied as usize..written.begin as usize]);
                    copied = written.end;
                    *written = push_value(line.value, &mut out);
                }
            });
        }
        out.extend_from_slice(&before[copied as usize..]);
        self.replace(out.into(), subject, skills);
    }
}

fn push_value(value: Value, out: &mut Vec<u8>) -> Written {
    let begin = position(out);
    value.with_text(|text| out.extend_from_slice(text));
    Written { bits: value.bits(), begin, end: position(out) }
}

/// A block holds a few skills, whose lines the limits of labels and phases keep far below 4 GiB.
fn position(out: &[u8]) -> u32 {
    u32::try_from(out.len()).expect("a block is far smaller than 4 GiB")
}
