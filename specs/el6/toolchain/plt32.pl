#!/usr/bin/perl
# Rewrites the relocations R_X86_64_PLT32 of a module to R_X86_64_PC32, in place.
#
# Assemblers since binutils 2.31 write PLT32 for every call and jump. A kernel has no procedure linkage
# table, so that both mean the same there, but the loader of 2.6.32 knows only PC32 and refuses the rest.
# Layout: System V ABI, "Object Files"; relocation numbers: its AMD64 supplement, table 4.9.
use strict;
use warnings;

use constant { RELA => 4, PC32 => 2, PLT32 => 4, ENTRY => 24 };

my ($path) = @ARGV;
open(my $file, '+<:raw', $path) or die "plt32: $path: $!\n";
my $image = do { local $/; <$file> };
substr($image, 0, 6) eq "\x7fELF\x02\x01" or die "plt32: $path: no little-endian 64-bit ELF file\n";

my ($table) = unpack('Q<', substr($image, 40, 8));
my ($size, $count) = unpack('S<2', substr($image, 58, 4));
for my $index (0 .. $count - 1) {
    my ($type, $offset, $length) = unpack('x4 L< x16 Q<2', substr($image, $table + $index * $size, $size));
    next if $type != RELA;
    for (my $at = $offset; $at < $offset + $length; $at += ENTRY) {
        next if unpack('L<', substr($image, $at + 8, 4)) != PLT32;
        seek($file, $at + 8, 0) and print {$file} pack('L<', PC32) or die "plt32: $path: $!\n";
    }
}
close($file) or die "plt32: $path: $!\n";
