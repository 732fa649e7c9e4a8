"""Run programs, keep files and locks, talk to people: what every other package rests on."""
