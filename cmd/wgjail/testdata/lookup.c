/* Looks up a name with the C library that it is linked with. */
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
	struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *found;
	char text[INET_ADDRSTRLEN];

	if (argc != 2 || getaddrinfo(argv[1], NULL, &hints, &found) != 0)
		return 2;
	puts(inet_ntop(AF_INET, &((struct sockaddr_in *)found->ai_addr)->sin_addr, text, sizeof text));
	return 0;
}
