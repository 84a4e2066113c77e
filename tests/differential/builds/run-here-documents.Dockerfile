FROM base
RUN <<EOF
echo one > /one
echo "$HOME" > /home-of
EOF
RUN <<-"SCRIPT" cat > /script
	line $not
	SCRIPT
RUN <<EOF
#!/bin/busybox ash
echo from ash > /ash
EOF
#: without classic: here-documents are newer
#: without embedded: here-documents are newer
#: without buildah: here-documents are newer
#: differs newest: history 3: * - row: History texts
