#!/usr/bin/perl
# Holds the kernel tree in the builder against the listing of what it must be: the pristine tree that the
# pinned source has, with the role's series applied. Blobs and modes are git's, so that the listing is
# the one whose git tree id is pinned.
#
#   perl tree.pl exact|content LISTING DIRECTORY [OWN...]
#
# exact: nothing else may be there but files at the top named by OWN, patterns with * for any text.
# content: what the build itself made in between, and modes it set, do not count.
# A symbolic link may be the file it leads to: the spec copies the tree with `cp -rl`, which follows links.
use strict;
use warnings;
use Digest::SHA qw(sha1_hex);
use File::Basename qw(dirname);
use File::Find qw(find);
use File::Spec;

use constant SHOWN => 40;

my ($mode, $listing, $directory, @own) = @ARGV;
my (%expected, %with_blob, @wrong);
open(my $rows, '<', $listing) or die "error: tree: $listing: $!\n";
while (my $row = <$rows>) {
    chomp $row;
    my ($bits, $blob, $path) = $row =~ /^(\d{6}) ([0-9a-f]{40}) (.+)$/ or die "error: tree: $listing: $row\n";
    $expected{$path} = [$bits, $blob];
    push @{ $with_blob{$blob} }, $path;
}
chdir $directory or die "error: tree: $directory: $!\n";

for my $path (sort keys %expected) {
    my ($bits, $blob) = @{ $expected{$path} };
    my ($has, $content) = entry($path);
    if (!defined $has) {
        push @wrong, "missing $path";
        next;
    }
    my $had = blob($content);
    if ($bits eq '120000' && $has ne $bits) {
        my @targets = map { blob(File::Spec->abs2rel("/$_", '/' . dirname($path))) } @{ $with_blob{$had} };
        push @wrong, "changed $path" if !grep { $_ eq $blob } @targets;
    } elsif ($had ne $blob) {
        push @wrong, "changed $path";
    } elsif ($has ne $bits && ($mode eq 'exact' || $has eq '120000')) {
        push @wrong, "mode $path: $has, wanted $bits";
    }
}
if ($mode eq 'exact') {
    my $own = join('|', map { join('.*', map { quotemeta } split(/\*/, $_, -1)) } @own);
    find({ no_chdir => 1, wanted => sub {
        (my $path = $File::Find::name) =~ s{^\./}{};
        return if -d $_ && !-l $_ || $expected{$path} || $path =~ m{^(?:$own)$} && $path !~ m{/};
        push @wrong, "extra $path";
    } }, '.');
}
print "error: tree: $_\n" for @wrong > SHOWN ? @wrong[0 .. SHOWN - 1] : @wrong;
printf "error: tree: and %d more\n", @wrong - SHOWN if @wrong > SHOWN;
printf "%s: %d files are as the sources and the series make them\n", $directory, scalar keys %expected if !@wrong;
exit(@wrong ? 1 : 0);

# The object id git gives a content.
sub blob {
    my ($content) = @_;
    return sha1_hex('blob ' . length($content) . "\0" . $content);
}

# A path's mode as git has it, and its content: of a symbolic link, its target.
sub entry {
    my ($path) = @_;
    if (-l $path) {
        return ('120000', readlink $path);
    }
    open(my $file, '<:raw', $path) or return;
    local $/;
    my $content = <$file>;
    return ((stat $file)[2] & 0100 ? '100755' : '100644', $content // '');
}
