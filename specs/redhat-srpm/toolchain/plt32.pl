#!/usr/bin/perl
# Rewrites the relocations R_X86_64_PLT32 of a module to R_X86_64_PC32, in place.
#
# Assemblers since binutils 2.31 write PLT32 for every call and jump. A kernel has no procedure linkage
# table, so that both mean the same there, but the loader of 2.6.32 knows only PC32 and refuses the rest.
# Layout: System V ABI, "Object Files"; relocation numbers: its AMD64 supplement, table 4.9.
use strict;
use warnings;

use constant { RELA => 4, PC32 => 2, PLT32 => 4, ENTRY => 24, SECTION => 64 };

my ($path) = @ARGV;
open(my $file, '+<:raw', $path) or die "plt32: $path: $!\n";
my $image = do { local $/; <$file> };
substr($image, 0, 6) eq "\x7fELF\x02\x01" or die "plt32: $path: no little-endian 64-bit ELF file\n";

my ($table) = unpack('Q<', part(40, 8));
my ($size, $count) = unpack('S<2', part(58, 4));
$size == SECTION && $count or die "plt32: $path: no section headers\n";
# All of them are read before anything is written, so that a file that is cut short stays as it is.
my @tables = map { [unpack('x4 L< x16 Q<2', part($table + $_ * $size, $size))] } 0 .. $count - 1;
my @found;
for my $section (grep { $_->[0] == RELA } @tables) {
    my ($offset, $length) = @{$section}[1, 2];
    part($offset, $length);
    push @found, grep { unpack('L<', part($_ + 8, 4)) == PLT32 } map { $offset + $_ * ENTRY } 0 .. $length / ENTRY - 1;
}
for my $at (@found) {
    seek($file, $at + 8, 0) and print {$file} pack('L<', PC32) or die "plt32: $path: $!\n";
}
close($file) or die "plt32: $path: $!\n";

# Bytes of the file, which must be there: of what lies behind the end perl makes undef, in silence.
sub part {
    my ($offset, $length) = @_;
    $offset + $length <= length $image or die "plt32: $path: cut short: $length bytes at $offset are missing\n";
    return substr($image, $offset, $length);
}
